"""Text encoders run in pieces as in one go, sentences in batches as alone."""

import pytest
import torch

from rvos_lightning.parts.text.clip import ClipText
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.text.tokenizers import WordTokenizer, tokenizer_for

SIZE = TextSize(vocabulary=0, width=16, layers=3, heads=2, mlp=24, positions=12, dropout=0.1)


def build(kind, **options):
    torch.manual_seed(0)
    options = {"tokenizer": WordTokenizer(["red", "circle", "the"], buckets=8), "size": SIZE, **options}
    return kind(**options).eval()


@pytest.mark.parametrize("kind", [Roberta, ClipText])
@torch.no_grad()
def test_pieces_equal_the_whole_and_batches_equal_sentences(kind):
    text = build(kind)
    sentences = ["the red circle", "a rider with a dark helmet"]
    words, real, sentence = text(sentences)
    ids, mask = text.tokenize(sentences)
    states = text.embed(ids, mask)
    for layer in range(text.depth):
        states = text.run(states, mask, layer, layer + 1)
    torch.testing.assert_close(text.finish(states), words)
    assert real.sum(1).tolist() == [5, 8]
    for i, one in enumerate(sentences):
        alone, none, vector = text([one])
        assert none is None
        torch.testing.assert_close(words[i : i + 1, : alone.shape[1]], alone)
        torch.testing.assert_close(sentence[i : i + 1], vector)
    assert not torch.allclose(sentence[0], sentence[1], atol=1e-3)


@torch.no_grad()
def test_layers_equal_transformers_own_forward():
    for kind in (Roberta, ClipText):
        text = build(kind)
        words, real, _ = text(["the red circle", "a big red circle moves"])
        ids, _ = text.tokenize(["the red circle", "a big red circle moves"])
        expected = text.model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        torch.testing.assert_close(words[real], expected[real], atol=1e-5, rtol=1e-5)


def test_roberta_has_fairseqs_epsilon_and_zero_pads():
    text = build(Roberta)
    norms = [m.eps for m in text.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert set(norms) == {1e-5}
    ids, real = text.tokenize(["red", "the red circle"])
    assert not text.embed(ids, real)[0, 3:].any()


def test_frozen_text_keeps_dropout_only_if_asked():
    assert not any(m.training for m in build(Roberta).train().modules())
    assert build(Roberta, frozen_dropout=True).train().model.embeddings.dropout.training
    free = build(Roberta, frozen=False)
    assert all(p.requires_grad for p in free.parameters()) and free.train().training


def test_words_and_buckets():
    tokenizer = WordTokenizer(["red", "circle"], buckets=4)
    assert tokenizer("Red circle") == [0, 3, 4, 2] and tokenizer.size == 9
    unknown = tokenizer("the rider's helmet!")[1:-1]
    assert unknown == tokenizer("The Rider's helmet!")[1:-1] and all(5 <= i < 9 for i in unknown)


def test_bad_text_is_named():
    text = build(Roberta)
    with pytest.raises(ValueError, match="no expressions"):
        text([])
    with pytest.raises(ValueError, match="at most 12"):
        text(["word " * 20])
    with pytest.raises(ValueError, match="vocabulary 0"):
        build(Roberta, size=TextSize(vocabulary=4, width=16, layers=1, heads=2))


def test_default_words_are_those_of_moving_shapes():
    from rvos_lightning.data.shapes.moving_shapes import VOCABULARY

    tokenizer = WordTokenizer()
    known = tokenizer.FIRST + len(tokenizer.words)
    ids = [tokenizer(word)[1] for word in VOCABULARY]
    assert max(ids) < known and len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("source", "sentence", "ids"),
    [
        ("weights/roberta-base", "Hello world", [0, 31414, 232, 2]),
        ("FacebookAI/roberta-base", "the dog", [0, 627, 2335, 2]),
        ("bert-base-uncased", "Hello world", [101, 7592, 2088, 102]),
    ],
)
def test_published_vocabularies_come_along(source, sentence, ids):
    """Ids as the published tokenizers give them; no folder of that name is there, nor any network."""
    tokenizer = tokenizer_for(None, source, "--x")
    assert tokenizer(sentence) == ids and tokenizer.size == {0: 50265, 101: 30522}[ids[0]]
    assert tokenizer(f" {sentence} naïve 日本 …!")[-1] == ids[-1]

"""Small weights of our own, `weights: small/NAME`, and the networks that they were parts of while they were trained.

What published weights are to published recipes, these are to the small ones: `configs/foundations` trains them on
MovingShapes, `make foundations` all of them.
"""

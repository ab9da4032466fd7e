"""`python -m rvos_lightning {fit,validate,test,predict} -c config.yaml [flags]`."""

from rvos_lightning.run.cli import main

if __name__ == "__main__":
    main()

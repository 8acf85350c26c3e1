"""`python -m alexnet_infer`: the same as the command `alexnet-infer`."""

from alexnet_infer.cli import main

if __name__ == "__main__":  # a process started by multiprocessing imports this module under another name
    main()

import sys

from helpers.evaluate import cross_fit, parts

if __name__ == "__main__":
    if "--cross-fit" in sys.argv:
        cross_fit.main([argument for argument in sys.argv[1:] if argument != "--cross-fit"])
    else:
        parts.main()

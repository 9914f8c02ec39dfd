import sys

from helpers.evaluate import cross_fit, parts, reading_html

OTHERS = {"--cross-fit": cross_fit, "--make-reading-test": reading_html}

if __name__ == "__main__":
    asked = next((OTHERS[argument] for argument in sys.argv[1:] if argument in OTHERS), parts)
    asked.main([argument for argument in sys.argv[1:] if argument not in OTHERS])

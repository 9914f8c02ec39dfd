"""What is in a source, before anything is trained: python -m helpers.data FOLDER

python -m helpers.data SCANS --out intake.json
python -m helpers.data PHOTOGRAPHS --dfe
"""

import argparse
import sys
import warnings
from pathlib import Path

from helpers.data.intake import as_json, opened, table
from helpers.data.prepare import doubted_copies
from helpers.data.scan import shown
from helpers.data.sources import take_in


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a folder, a manifest.csv, a .npz, oct2017, odir, simulated")
    parser.add_argument("--dfe", action="store_true", help="of the photographs, not of the OCT")
    parser.add_argument("--out", help="where all of it goes as intake.json")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names that no screen can show
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            intake = take_in(options.source, modality="dfe" if options.dfe else "oct")
            intake = opened(intake)
            intake.doubts += [str(warning.message) for warning in caught]
            intake.doubts += doubted_copies(intake.scans)
            if options.out:
                out = Path(options.out)
                out = out / "intake.json" if out.is_dir() else out
                out.write_text(as_json(intake), encoding="utf-8")
        except (OSError, ValueError) as error:
            parser.exit(1, f"{shown(error)}\n")
    print(table(intake))


if __name__ == "__main__":
    main()

from helpers.evaluate.parts import main

if __name__ == "__main__":
    main()

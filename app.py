"""The page, for `python app.py` and for a Hugging Face Space."""

from gap3d_app.ui import launch

if __name__ == "__main__":
    launch()

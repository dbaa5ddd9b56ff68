"""Floor 3: pages in, `Document` out. Page images from files, text lines from pages, generation, results."""

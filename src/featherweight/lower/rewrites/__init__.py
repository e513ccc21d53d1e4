"""What a converter can't take or gets wrong, rewritten before it sees it, or in what it gives."""

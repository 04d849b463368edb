"""`mmjax data inspect | dedup | convert`: looking at data, cleaning it, and changing its format."""

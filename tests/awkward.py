"""Names that shells, globs, URLs and markup read in their own way."""

NAMES = (
    "clip[lr=1e-3]", "a*b", "q?", "~", "~x", "x~", "50%20x", "%s", "sp ace", "#h", "é日本", "-x",
    "a{1,2}", "{1..3}", "a:b", "a|b", "new\nline", "q'\"", "$HOME", "[bold]", "a;b&c", "!x",
)  # fmt: skip
ALL = "-w[lr=1e-3] {a,b}*?%20#é~'\"$[bold]"  # all of it at once

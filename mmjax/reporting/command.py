"""`mmjax.report`, `mmjax report`: what the page needs is installed by an extra."""

from pathlib import Path

from etils import epath

from mmjax.errors import UserError


def report(workdir: str | Path, output: str | Path | None = None) -> epath.Path:
    """Writes a run as one HTML page: its numbers, curves, sample retrievals and config.

    >>> import mmjax
    >>> file = mmjax.report("runs/demo")  # doctest: +SKIP

    Args:
      workdir: of the run. Without a checkpoint, or where its evaluation data is not there, the page
        has no sample retrievals and says why.
      output: the file to write; default: report.html in the workdir.

    Returns:
      The file.

    Raises:
      UserError: no run is there, it has not logged a step, or the extra `report` is not
        installed.
    """
    try:
        from mmjax.reporting import page
    except ImportError as error:
        raise UserError("mmjax report needs its libraries: pip install 'mmjax[report]'.") from error
    return page.write(str(workdir), None if output is None else str(output))

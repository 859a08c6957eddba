"""What a pipeline makes of a module, on one page: `zenith-report`.

==============  ==================================================================================
`findings.py`   what there is to say, as data and as JSON
`run.py`        running a pipeline and finding it out
`page.py`       the HTML page, from the template `page.html`
==============  ==================================================================================
"""

"""A local web page for exploring seeds (extra `ui`): plain functions over the public API, wired by gradio.

`studio` checks each request and hands it to `jobs`, a queue with one worker; `work` carries it out with the
public API; `gallery` knows the files in the output folder. None of them knows about gradio: `app` wires them
to a page, and `server` serves it.
"""

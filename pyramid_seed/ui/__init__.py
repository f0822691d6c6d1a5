"""A local web page to look for seeds (extra `ui`): plain functions over the public API, wired by gradio.

`studio` checks what is asked for and hands it to `jobs`, a queue with one worker; `work` does it with the
public API; `gallery` knows the files in the output folder. None of them knows gradio: `app` wires them to a
page, `server` serves it.
"""

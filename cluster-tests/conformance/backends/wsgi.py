"""What gunicorn understood: written down, one JSON object a line, and answered."""

import json
import os


def application(environ, start_response):
    said = {
        "method": environ["REQUEST_METHOD"],
        "target": environ["RAW_URI"],
        "host": environ.get("HTTP_HOST", ""),
    }
    try:
        body = environ["wsgi.input"].read()
        said["body"] = body.decode("latin-1")
        # gunicorn hands on what there was of a body whose connection ended.
        if len(body) < int(environ.get("CONTENT_LENGTH") or 0):
            said["broken"] = "ended"
    except Exception as error:  # whatever its reader makes of a broken body
        said["broken"] = type(error).__name__
    text = json.dumps(said).encode()
    with open(os.environ["RECORD"], "ab") as file:
        file.write(text + b"\n")
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [] if said["method"] == "HEAD" else [text]

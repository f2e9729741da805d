"""The Flask application.

Run it: gunicorn --worker-class gthread --threads 8 --preload web:app
"""

from flask import Flask
from flask.typing import ResponseReturnValue

from reports import cache, report
from tasks import rebuild

app = Flask(__name__)


@app.get("/reports/<month>")
def show(month: str) -> ResponseReturnValue:
    return report(month)


@app.post("/reports/<month>/rebuild")
def order(month: str) -> ResponseReturnValue:
    limit = cache.rate_limit(f"rebuild:{month}", 1, per=10, on_error="allow")
    if not limit.hit():
        return {"error": "rebuilt a moment ago"}, 429
    rebuild.delay(month)
    return {"queued": month}, 202

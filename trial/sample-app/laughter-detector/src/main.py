"""The sample web app: `uvicorn src.main:app`, started in the folder that holds `static/` and `templates/`."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from . import yamnet
from .routes import router
from .settings import settings

MODEL = yamnet.load()

SECURITY_HEADERS = {
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; media-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "1; mode=block",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the shared upload folders before the first request."""
    for folder in ("clips", "temp"):
        os.makedirs(os.path.join(settings.upload_root, folder), exist_ok=True)
    yield


app = FastAPI(title="Giggles sample", description="Stand-in for Giggles on a trial droplet", lifespan=lifespan)


@app.middleware("http")
async def add_security_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Send the headers from the app, so that a proxy which adds its own without hiding these is caught sending two."""
    response = await call_next(request)
    response.headers.update(SECURITY_HEADERS)
    return response


app.add_middleware(
    CORSMiddleware,
    allow_origins=[origin.strip() for origin in settings.allowed_origins.split(",") if origin.strip()],
    allow_credentials=True,
    allow_methods=["GET", "POST", "PUT", "DELETE"],
    allow_headers=["*"],
)
# Outermost, as in Giggles: a refused Host gets its 400 without the security headers.
app.add_middleware(
    TrustedHostMiddleware,
    allowed_hosts=["*"] if settings.debug else ["localhost", "127.0.0.1", "*.local", "yourdomain.com"],
)

# Relative on purpose: a service with another working directory must fail here, at once.
app.mount("/static", StaticFiles(directory="static"), name="static")
app.include_router(router, prefix="/api")


@app.get("/", response_class=HTMLResponse)
def page() -> HTMLResponse:
    """Serve the only page, read anew on each request from the working directory."""
    with open("templates/index.html", encoding="utf-8") as template:
        return HTMLResponse(template.read())

"""What can go wrong with a certificate, each said in one paragraph: what happened, why, what to do."""


class CertificateError(Exception):
    """Base of all errors here; its text is meant for an operator."""


class Unreadable(CertificateError):
    """A certificate, key or renewal file exists but is not what it should be."""


class Refused(CertificateError):
    """The certificate authority, or certbot before it, did not hand out a certificate.

    Attributes:
        retry_at: when the authority said that asking again makes sense (seconds since 1970), or None.
    """

    def __init__(self, message: str, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.retry_at = retry_at

"""UptimeRobot looks at this server from outside; this package keeps its monitors as the settings say, through its v3 REST API.

Documented (https://uptimerobot.com/api/v3 and the OpenAPI description published with UptimeRobot's own command line client):

- Requests go to https://api.uptimerobot.com/v3 with `Authorization: Bearer KEY`. The account's main key may do everything, the
  read-only key only reads.
- The free plan has 10 requests a minute, others twice their monitors. An answer over that is 429 with `Retry-After` (seconds);
  `X-RateLimit-Limit`, `-Remaining` and `-Reset` come with every answer.
- `GET /monitors?limit=N&cursor=ID` (1 to 200) and `GET /alert-contacts?cursor=ID` answer `{"data": [...], "nextLink": ...}`.
- `POST /monitors` (201), `PATCH` and `DELETE /monitors/ID`; `POST /alert-contacts`, `DELETE /alert-contacts/ID`.
- A monitor of type `HTTP` needs friendlyName, url, interval and timeout (seconds), `KEYWORD` also keywordType (`ALERT_EXISTS` or
  `ALERT_NOT_EXISTS`), keywordCaseType and keywordValue. Both ask with HEAD unless httpMethodType says otherwise. The certificate is
  no monitor of its own: sslExpirationReminder and config.sslExpirationPeriodDays belong to the monitor of the site.
- Threshold and recurrence of an assigned contact are 0 on the free plan; tags and custom fields may be missing there, so neither is used.

Observed by others on a real account (the client GoSuccessHQ/uptimerobot-api says of each point that it was), and reckoned with here:

- `X-RateLimit-Reset` counts seconds to the end of a fixed window, and is no time since 1970 as documented. Both are understood.
- The window is the account's: other clients use it up as well.
- The list of monitors names a next page after every full one, even when nothing follows.
- `PATCH` merges `config` key by key. keywordCaseType reads as a number (0 heeds case) and is written as a word.
- Refusals are `{"message": text or list of texts, "code": ...}`; a plan that lacks something answers 403 with the code 000-003; the body of
  a 429 is plain text.

Assumed, and never tried on a real account:

- `assignedAlertContacts` of a `PATCH` replaces those that were assigned; ids of contacts come as numbers or texts.
- A new e-mail contact is `NotActivated` until whoever reads the mail agrees, and alerts nobody before.
- Whether the free plan takes the reminder of the certificate. If it refuses, the message says which setting to switch off.
- The type of a monitor cannot be changed, so one of ours with another type is removed and made anew.
"""

"""A real mail server for tests. Argument: JSON {port, cert?, key?, login?: [name, password]}.

Prints {"port": n} when it listens, then one line of JSON for each mail it took, read by Python's own mail parser.
Recipients refused@... are refused, busy@... are put off, hang@... make it fall silent in the middle of the mail.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


def say(what):
    print(json.dumps(what), flush=True)


class Taker:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 5.1.1 nobody of this name"
        if address.startswith("busy@"):
            return "451 4.3.0 come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        if any(to.startswith("hang@") for to in envelope.rcpt_tos):
            await asyncio.sleep(3600)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say(
            {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "tls": session.ssl is not None,
                "login": getattr(session, "login", None),
                "headers": [[name, str(value)] for name, value in mail.items()],
                "kind": mail.get_content_type(),
                "parts": [
                    {
                        "kind": part.get_content_type(),
                        "encoding": str(part.get("Content-Transfer-Encoding", "")),
                        "text": part.get_content(),
                    }
                    for part in mail.walk()
                    if not part.is_multipart()
                ],
                "line_max": max(len(line) for line in envelope.content.split(b"\r\n")),
                "is_ascii": envelope.content.isascii(),
            }
        )
        return "250 2.0.0 taken"


async def main():
    asked = json.loads(sys.argv[1])
    options = {}
    if "cert" in asked:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(asked["cert"], asked["key"])
        options = {"tls_context": context, "require_starttls": True}
    if "login" in asked:

        def check(server, session, envelope, mechanism, data):
            known = [data.login.decode(), data.password.decode()]
            session.login = known[0]
            return AuthResult(success=known == asked["login"])

        options |= {"authenticator": check, "auth_required": True}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Taker(), **options), "127.0.0.1", asked["port"])
    say({"port": server.sockets[0].getsockname()[1]})
    await server.serve_forever()


asyncio.run(main())

"""A real S3 server (moto's) on loopback, in front of which requests can be made to fail."""

import socket
import threading
import time

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class ObjectStorage:
    """`faults` befall the GETs of objects in turn: 500, 403, reset, slow, hang; None lets one through. `faults_of_puts`
    likewise: 500, 403, reset, slow. `puts` and `gets` are what was asked for."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.faults: list[str | None] = []
        self.gets: list[str] = []
        self.faults_of_puts: list[str | None] = []
        self.puts: list[str] = []
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "very-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def close(self) -> None:
        self.server.shutdown()

    def _answer(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].count("/") > 1:
            self.gets.append(environ["PATH_INFO"])
            fault = self.faults.pop(0) if self.faults else None
            if fault == "500":
                start_response("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
            if fault == "403":
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"]
            if fault in ("reset", "slow", "hang"):
                return self._body(environ, start_response, fault)
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].count("/") > 1:
            self.puts.append(environ["PATH_INFO"])
            fault = self.faults_of_puts.pop(0) if self.faults_of_puts else None
            if fault == "reset":  # in the middle of what is sent
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionResetError
            if fault == "slow":
                time.sleep(1.0)
            elif fault:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                status = "500 Internal Server Error" if fault == "500" else "403 Forbidden"
                start_response(status, [("Content-Length", "0")])
                return [b""]
        return self.moto(environ, start_response)

    def _body(self, environ, start_response, fault):
        told = []
        body = b"".join(self.moto(environ, lambda status, headers, *rest: told.append((status, headers))))
        start_response(*told[0])
        yield body[: len(body) // 2]
        if fault == "reset":
            raise ConnectionResetError  # the rest never comes, and the connection closes
        time.sleep(0.3 if fault == "slow" else 20)
        yield body[len(body) // 2 :]

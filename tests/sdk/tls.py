"""The TLS that stands in front of tokenmeter in production: boto3 sends an API key over nothing else."""

import datetime
import ipaddress
import shutil
import socket
import ssl
import tempfile
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def in_front_of(host, port):
    """Ends TLS on a port of its own and passes bytes to and from `host` and `port`. That URL, and its certificate."""
    folder = Path(tempfile.mkdtemp())
    certificate = folder / "certificate.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.write_bytes(_certificate())
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, context, (host, port)), daemon=True).start()
    return f"https://127.0.0.1:{listener.getsockname()[1]}", certificate, lambda: shutil.rmtree(folder)


def _certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    made = made.add_extension(here, critical=False).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM)


def _accept(listener, context, target):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(client, context, target), daemon=True).start()


def _serve(client, context, target):
    with context.wrap_socket(client, server_side=True) as client, socket.create_connection(target) as server:
        # A request at a time: whoever has bytes is read, until one of them closes.
        threading.Thread(target=_copy, args=(client, server), daemon=True).start()
        _copy(server, client)


def _copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # One of them hung up.

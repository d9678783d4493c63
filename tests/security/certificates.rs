//! Certificates that are right, missing, expired, of the wrong authority or for the wrong name, on both
//! sides of a connection.

use crate::pki::{Authority, Pair, write};
use crate::sidecar::*;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inferno_sidecar::client::ClientSettings;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Flags of a listener with that certificate.
async fn serving(dir: &Path, pair: &Pair, more: &[(&str, &str)]) -> Sidecar {
    let (cert, key) = pair.write(dir, "server");
    let mut flags = vec![("tls-cert-file", text(&cert)), ("tls-private-key-file", text(&key))];
    flags.extend_from_slice(more);
    Sidecar::start(&flags).await
}

#[tokio::test]
async fn a_client_refuses_a_server_that_it_cannot_know() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let ca = write(dir.path(), "ca.crt", &ours.pem());
    let trusting = || ClientSettings { ca_file: Some(ca.clone()), ..ClientSettings::default() };
    let renamed = || ClientSettings { server_name: Some("sidecar.example".into()), ..trusting() };
    let blind = || ClientSettings { insecure_skip_verify: true, ..ClientSettings::default() };
    for (pair, settings, expected) in [
        (ours.server(&["localhost"]), trusting(), Ok(())),
        (ours.server(&["sidecar.example"]), renamed(), Ok(())),
        (ours.server(&["sidecar.example"]), trusting(), Err("not valid for name")),
        (ours.server(&["localhost"]), renamed(), Err("not valid for name")),
        (ours.expired_server(&["localhost"]), trusting(), Err("expired")),
        (other.server(&["localhost"]), trusting(), Err("UnknownIssuer")),
        (ours.server(&["localhost"]), ClientSettings::default(), Err("UnknownIssuer")),
        (other.expired_server(&["elsewhere"]), blind(), Ok(())),
    ] {
        let sidecar = serving(dir.path(), &pair, &[]).await;
        let answer = sidecar.ask(&client(settings), "/-/healthy").await;
        match (answer, expected) {
            (Ok(answer), Ok(())) => assert_eq!(answer.status(), 200),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{part}: {error}"),
            (answer, expected) => panic!("{expected:?}: {:?}", answer.map(|answer| answer.status())),
        }
    }
}

#[tokio::test]
async fn an_expired_certificate_is_served_but_not_silently() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = serving(dir.path(), &Authority::new("ours").expired_server(&["localhost"]), &[]).await;
    assert_eq!(sidecar.process.lines("is not valid now").len(), 1);
    let blind = ClientSettings { insecure_skip_verify: true, ..ClientSettings::default() };
    let answer = sidecar.ask(&client(blind), READ).await.unwrap();
    let metrics = String::from_utf8_lossy(answer.body()).into_owned();
    let name = "inferno_sidecar_certificate_expiry_timestamp_seconds{listener=\"main\"} 1609459200\n";
    assert!(metrics.contains(name), "{metrics}");
}

#[tokio::test]
async fn the_port_speaks_tls_only() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = serving(dir.path(), &Authority::new("ours").server(&["localhost"]), &[]).await;
    let plain = Sidecar { scheme: "http", ..sidecar };
    let answer = plain.ask(&client(ClientSettings::default()), "/-/healthy").await;
    assert!(answer.is_err(), "plain text must not be answered");
}

#[tokio::test]
async fn client_certificates_open_the_surfaces_that_ask_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, clients, other) = (Authority::new("ours"), Authority::new("clients"), Authority::new("other"));
    let server_ca = write(dir.path(), "ca.crt", &ours.pem());
    let client_ca = write(dir.path(), "clients.crt", &clients.pem());
    let pair = ours.server(&["localhost"]);
    let all = serving(dir.path(), &pair, &[("tls-client-ca-file", text(&client_ca))]).await;
    let trusting = || ClientSettings { ca_file: Some(server_ca.clone()), ..ClientSettings::default() };
    let showing = |pair: Pair, name: &str| {
        let (cert, key) = pair.write(dir.path(), name);
        ClientSettings { cert_file: Some(cert), key_file: Some(key), ..trusting() }
    };
    let known = client(showing(clients.client(), "known"));
    let nobody = client(trusting());
    assert_eq!(all.code(&known, WRITE).await, 204);
    assert_eq!(all.code(&known, READ).await, 200);
    assert_eq!(all.code(&known, ADMIN).await, 200);
    for path in [WRITE, READ, ADMIN, "/", "/api/v1/variants"] {
        let answer = all.ask(&nobody, path).await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
        assert!(String::from_utf8_lossy(answer.body()).contains("a client certificate"), "{path}");
    }
    assert_eq!(all.code(&nobody, "/-/healthy").await, 200, "probes show no certificate");
    // A server's certificate is no client's, and neither is an expired one or one of somebody else.
    for (pair, why) in [
        (clients.expired_client(), "expired"),
        (other.client(), "wrong authority"),
        (clients.server(&["localhost"]), "wrong usage"),
    ] {
        let answer = all.ask(&client(showing(pair, "bad")), "/-/healthy").await;
        assert!(answer.is_err(), "{why}: the handshake must fail");
    }

    let flags = [("tls-client-ca-file", text(&client_ca)), ("tls-client-cert-for", "write,admin")];
    let some = serving(dir.path(), &pair, &flags).await;
    assert_eq!((some.code(&nobody, READ).await, some.code(&nobody, WRITE).await), (200, 401));
    assert_eq!((some.code(&known, WRITE).await, some.code(&nobody, ADMIN).await), (204, 401));
}

#[tokio::test]
async fn files_that_do_not_fit_end_the_start_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours");
    let (cert, key) = ours.server(&["localhost"]).write(dir.path(), "one");
    let (_, other_key) = ours.server(&["localhost"]).write(dir.path(), "two");
    let (cert, key, other_key) = (text(&cert), text(&key), text(&other_key));
    let junk = write(dir.path(), "junk", "no PEM, no hash");
    let junk = text(&junk);
    let absent = dir.path().join("absent");
    let absent = text(&absent);
    for (flags, part) in [
        (vec![("tls-cert-file", cert)], "belong together"),
        (vec![("tls-cert-file", absent), ("tls-private-key-file", key)], "absent"),
        (vec![("tls-cert-file", cert), ("tls-private-key-file", other_key)], "two.key"),
        (vec![("tls-cert-file", junk), ("tls-private-key-file", key)], "holds no PEM certificate"),
        (vec![("tls-cert-file", cert), ("tls-private-key-file", junk)], "holds no PEM private key"),
        (vec![("tls-client-ca-file", cert)], "needs --tls-cert-file"),
        (vec![("read-basic-auth-file", junk)], "line 1"),
        (vec![("write-bearer-token-file", absent)], "absent"),
        (vec![("external-metrics-name", "x")], "need --external-metrics-listen"),
    ] {
        let output = command(&flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{flags:?}: {said}");
        assert!(!said.contains("no hash"), "what is in a file is not shown: {said}");
    }
}

/// KEDA's client insists that HTTP/2 is agreed upon in the handshake.
#[tokio::test]
async fn keda_speaks_http_2_over_tls_with_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let client_ca = write(dir.path(), "clients.crt", &clients.pem());
    let flags = [("tls-client-ca-file", text(&client_ca))];
    let sidecar = serving(dir.path(), &ours.server(&["localhost"]), &flags).await;
    for (pair, expected) in [(Some(clients.client()), "3"), (None, "16")] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ours.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match pair {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(sidecar.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (executor, io) = (TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let uri = sidecar.url("/externalscaler.ExternalScaler/IsActive");
        let request = hyper::Request::post(uri).header("content-type", "application/grpc");
        let body = http_body_util::Full::new(bytes::Bytes::from_static(&[0, 0, 0, 0, 0]));
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        // Without metadata the request is refused as such, once it is let in.
        assert_eq!(answer.headers()["grpc-status"], expected);
    }
}

//! Tokens and passwords, surface by surface, and that none of them is ever shown.

use crate::pki::write;
use crate::sidecar::*;
use inferno_sidecar::client::{Client, ClientSettings};
use std::sync::Arc;

fn bearer(dir: &std::path::Path, token: &str) -> Client {
    let file = write(dir, &format!("token-{token}"), token);
    client(ClientSettings { bearer_token_file: Some(file), ..ClientSettings::default() })
}

fn basic(dir: &std::path::Path, user: &str, password: &str) -> Client {
    let file = write(dir, &format!("password-{password}"), password);
    let settings =
        ClientSettings { username: Some(user.into()), password_file: Some(file), ..Default::default() };
    client(settings)
}

#[tokio::test]
async fn each_surface_has_credentials_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let token = |name: &str| write(dir.path(), &format!("{name}.tokens"), &format!("{name}-secret\n"));
    let (write_file, read_file, admin_file) = (token("write"), token("read"), token("admin"));
    let sidecar = Sidecar::start(&[
        ("write-bearer-token-file", text(&write_file)),
        ("read-bearer-token-file", text(&read_file)),
        ("admin-bearer-token-file", text(&admin_file)),
    ])
    .await;
    let nobody = client(ClientSettings::default());
    let reads = [READ, "/", "/api/v1/variants", "/api/v1/labels", "/api/v1/metadata"];
    for (name, code) in [("write", 204), ("read", 200), ("admin", 200)] {
        let known = bearer(dir.path(), &format!("{name}-secret"));
        for (surface, paths) in [("write", &[WRITE][..]), ("read", &reads[..]), ("admin", &[ADMIN][..])] {
            for path in paths {
                let expected = if surface == name { code } else { 401 };
                assert_eq!(sidecar.code(&known, path).await, expected, "{path} with the token of {name}");
            }
        }
    }
    for path in [WRITE, ADMIN].into_iter().chain(reads) {
        let answer = sidecar.ask(&nobody, path).await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"inferno-sidecar\"");
    }
    // Slashes and letters that are written otherwise lead nowhere else.
    for path in ["//metrics", "/api//v1/variants", "/api/v1/variants/", "/METRICS", "/%6Detrics"] {
        let code = sidecar.code(&nobody, path).await;
        assert!(code == 401 || code == 404, "{path}: {code}");
    }
    // Whatever the index of paths comes to list stands behind a guard.
    let index = sidecar.ask(&bearer(dir.path(), "read-secret"), "/").await.unwrap();
    let index = String::from_utf8_lossy(index.body()).into_owned();
    let listed: Vec<&str> = index.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert!(listed.len() > 5, "{index}");
    for path in listed.into_iter().filter(|path| !["/-/healthy", "/-/ready"].contains(path)) {
        assert_eq!(sidecar.code(&nobody, path).await, 401, "{path}");
    }
    for path in ["/-/healthy", "/-/ready"] {
        assert_ne!(sidecar.code(&nobody, path).await, 401, "probes are open");
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_whatever_their_form() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = write(dir.path(), "tokens", "right-token\nother-token\n");
    let hash = bcrypt::hash("right-password", 4).unwrap();
    let users = write(dir.path(), "users", &format!("# people\nalice:{hash}\n\n"));
    let flags = [("read-bearer-token-file", text(&tokens)), ("read-basic-auth-file", text(&users))];
    let sidecar = Sidecar::start(&flags).await;
    let nobody = client(ClientSettings::default());
    use base64::Engine as _;
    let encoded = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    for (authorization, code) in [
        ("Bearer right-token".to_owned(), 200),
        ("bearer   other-token".into(), 200),
        ("Bearer wrong-token".into(), 401),
        ("Bearer right-toke".into(), 401),
        ("Bearer right-token\u{20}x".into(), 401),
        ("Bearer ".into(), 401),
        ("Bearer".into(), 401),
        ("right-token".into(), 401),
        ("Digest right-token".into(), 401),
        (encoded("alice:right-password"), 200),
        (encoded("alice:wrong-password"), 401),
        (encoded("alice:"), 401),
        (encoded("bob:right-password"), 401),
        (encoded(&format!("alice:{hash}")), 401),
        (encoded("alice"), 401),
        (encoded("right-token:"), 401),
        ("Basic %%%".into(), 401),
    ] {
        for _ in 0..2 {
            let answer = sidecar.ask_as(&nobody, READ, &authorization).await;
            assert_eq!(answer.status().as_u16(), code, "{authorization}");
            let body = String::from_utf8_lossy(answer.body()).into_owned();
            if code == 401 {
                assert!(body.contains("not valid") && !body.contains("wrong-"), "{body}");
                let challenges = answer.headers().get_all("www-authenticate").iter().count();
                assert_eq!(challenges, 2);
            }
        }
    }
    let metrics = sidecar.ask_as(&nobody, READ, "Bearer right-token").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    let name = "inferno_sidecar_denied_requests_total{surface=\"read\",why=\"wrong\"}";
    assert!(metrics.contains(name), "{metrics}");
    for secret in ["right-token", "right-password", "wrong-token", &*hash, "alice"] {
        assert!(sidecar.process.lines(secret).is_empty(), "{secret} is in the log");
        for path in [READ, "/", "/api/v1/variants", "/no/such/path"] {
            let answer = sidecar.ask_as(&nobody, path, "Bearer right-token").await;
            assert!(!String::from_utf8_lossy(answer.body()).contains(secret), "{secret} is in {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_hashed_once_however_many_requests_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let hash = bcrypt::hash("right-password", 12).unwrap();
    let users = write(dir.path(), "users", &format!("alice:{hash}\n"));
    let sidecar = Arc::new(Sidecar::start(&[("write-basic-auth-file", text(&users))]).await);
    let alice = basic(dir.path(), "alice", "right-password");
    // All at once before the first is known, so they share one hash.
    let started = std::time::Instant::now();
    let first = (0..40).map(|_| {
        let (sidecar, alice) = (sidecar.clone(), alice.clone());
        tokio::spawn(async move { sidecar.code(&alice, WRITE).await })
    });
    for code in first.collect::<Vec<_>>() {
        assert_eq!(code.await.unwrap(), 204);
    }
    let with_hash = started.elapsed();
    let started = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(sidecar.code(&alice, WRITE).await, 204);
    }
    println!("40 writes with the first check {with_hash:?}, 100 more {:?}", started.elapsed());
    // Wrong ones by the dozen do not keep right ones out.
    let nobody = client(ClientSettings::default());
    let wrong = (0..100).map(|number| {
        let (sidecar, nobody) = (sidecar.clone(), nobody.clone());
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("alice:wrong-{number}"));
        tokio::spawn(async move { sidecar.ask_as(&nobody, WRITE, &format!("Basic {pair}")).await.status() })
    });
    let wrong: Vec<_> = wrong.collect();
    assert_eq!(sidecar.code(&alice, WRITE).await, 204);
    for status in wrong {
        let status = status.await.unwrap().as_u16();
        assert!(status == 401 || status == 503, "{status}");
    }
}

/// The connection is not cut while the body is still being sent, or the sender would try again for ever.
#[tokio::test]
async fn a_sender_of_a_large_batch_hears_that_it_is_not_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = write(dir.path(), "tokens", "right-token\n");
    let sidecar = Sidecar::start(&[("write-bearer-token-file", text(&tokens))]).await;
    for _ in 0..20 {
        let nobody = client(ClientSettings::default());
        let body = http_body_util::Full::from(vec![7; 900 << 10]);
        let request = hyper::Request::post(sidecar.url(WRITE)).body(body).unwrap();
        let answer = nobody.fetch(request, 1 << 20, std::time::Duration::from_secs(30)).await.unwrap();
        assert_eq!(answer.status(), 401);
    }
}

#[tokio::test]
async fn keda_is_told_in_its_own_terms() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = write(dir.path(), "tokens", "right-token\n");
    let sidecar = Sidecar::start(&[("read-bearer-token-file", text(&tokens))]).await;
    let stream = tokio::net::TcpStream::connect(sidecar.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for (token, expected) in
        [(None, "16"), (Some("Bearer wrong-token"), "16"), (Some("Bearer right-token"), "3")]
    {
        let uri = format!("http://{}/externalscaler.ExternalScaler/IsActive", sidecar.address);
        let mut request = hyper::Request::post(uri).header("content-type", "application/grpc");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let body = http_body_util::Full::new(bytes::Bytes::from_static(&[0, 0, 0, 0, 0]));
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["grpc-status"], expected, "{token:?}");
    }
}

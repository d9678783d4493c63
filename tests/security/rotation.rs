//! Certificates and tokens replaced under load: no request fails, new connections get the new one, and a
//! broken replacement changes nothing.

use crate::pki::{Authority, Pair, write};
use crate::sidecar::*;
use inferno_sidecar::client::{Client, ClientSettings};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const WAIT_MAX: Duration = Duration::from_secs(30);

/// Requests sent all the time: on connections kept open, and on a new one each.
struct Load {
    is_stopping: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(sidecar: &Arc<Sidecar>, settings: &ClientSettings) -> Self {
        let (is_stopping, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let senders = (0..4).map(|number| {
            let (sidecar, settings) = (sidecar.clone(), settings.clone());
            let (is_stopping, asked) = (is_stopping.clone(), asked.clone());
            tokio::spawn(async move {
                let kept = client(settings.clone());
                while !is_stopping.load(Ordering::Relaxed) {
                    let fresh = if number % 2 == 0 { kept.clone() } else { client(settings.clone()) };
                    let path = if number < 2 { WRITE } else { READ };
                    let answer = sidecar.ask(&fresh, path).await.expect("no request fails");
                    assert!(answer.status().is_success(), "{path}: {}", answer.status());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Load { senders: senders.collect(), is_stopping, asked }
    }

    /// Waits until some more requests have been answered.
    async fn go_on(&self) {
        let wanted = self.asked.load(Ordering::Relaxed) + 50;
        let until = Instant::now() + WAIT_MAX;
        while self.asked.load(Ordering::Relaxed) < wanted {
            assert!(self.senders.iter().all(|sender| !sender.is_finished()), "a request has failed");
            assert!(Instant::now() < until, "the load has stopped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> u64 {
        self.is_stopping.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.await.expect("no request fails");
        }
        self.asked.load(Ordering::Relaxed)
    }
}

/// The certificate that a new connection is shown.
async fn shown(sidecar: &Sidecar, authority: &Authority) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn wait_shown(sidecar: &Sidecar, authority: &Authority, pair: &Pair) {
    let wanted = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
    let until = Instant::now() + WAIT_MAX;
    while shown(sidecar, authority).await != *wanted {
        assert!(Instant::now() < until, "the new certificate is not in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A mounted secret: `tls.crt` and `tls.key` behind one link that is swapped.
fn mount(dir: &Path, generation: u32, pair: &Pair) {
    let folder = format!("..{generation}");
    std::fs::create_dir(dir.join(&folder)).unwrap();
    write(&dir.join(&folder), "tls.crt", &pair.cert);
    write(&dir.join(&folder), "tls.key", &pair.key);
    symlink(&folder, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new("ours"), Authority::new("clients"));
    let ca_file = Some(write(dir.path(), "ca.crt", &authority.pem()));
    let client_ca = write(dir.path(), "clients.crt", &clients.pem());
    let (cert, key) = clients.client().write(dir.path(), "client");
    let settings =
        ClientSettings { ca_file, cert_file: Some(cert), key_file: Some(key), ..Default::default() };
    let secret = dir.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    let pairs: Vec<Pair> = (0..4).map(|_| authority.server(&["localhost"])).collect();
    mount(&secret, 0, &pairs[0]);
    symlink("..data/tls.crt", secret.join("tls.crt")).unwrap();
    symlink("..data/tls.key", secret.join("tls.key")).unwrap();
    let (cert, key) = (secret.join("tls.crt"), secret.join("tls.key"));
    let flags = [
        ("tls-cert-file", text(&cert)),
        ("tls-private-key-file", text(&key)),
        ("tls-client-ca-file", text(&client_ca)),
    ];
    let sidecar = Arc::new(Sidecar::start(&flags).await);
    let load = Load::start(&sidecar, &settings);
    load.go_on().await;

    mount(&secret, 1, &pairs[1]);
    wait_shown(&sidecar, &authority, &pairs[1]).await;
    load.go_on().await;

    // Written over one after the other: between the two the key does not belong to the certificate.
    write(&secret.join("..1"), "tls.crt", &pairs[2].cert);
    load.go_on().await;
    write(&secret.join("..1"), "tls.key", &pairs[2].key);
    wait_shown(&sidecar, &authority, &pairs[2]).await;

    // Half a certificate is not used, and said once.
    mount(&secret, 2, &Pair { cert: pairs[3].cert[..100].into(), key: pairs[3].key.clone() });
    let said = sidecar.process.line("new TLS certificate cannot be used; the last good one stays").await;
    assert!(said.contains("tls.crt"), "{said}");
    load.go_on().await;
    wait_shown(&sidecar, &authority, &pairs[2]).await;
    mount(&secret, 3, &pairs[3]);
    wait_shown(&sidecar, &authority, &pairs[3]).await;

    // The client authority, too: first both, then only the new one, clients changing over meanwhile.
    let next = Authority::new("clients, next");
    write(dir.path(), "clients.crt", &format!("{}{}", clients.pem(), next.pem()));
    load.go_on().await;
    println!("{} requests, none failed", load.stop().await);
    write(dir.path(), "clients.crt", &next.pem());
    wait_code(&sidecar, &settings, None).await;
    next.client().write(dir.path(), "client");
    assert_eq!(sidecar.code(&client(settings), READ).await, 200);
}

/// Waits until a new connection's request to the read surface ends with `code`, or fails.
async fn wait_code(sidecar: &Sidecar, settings: &ClientSettings, code: Option<u16>) {
    let until = Instant::now() + WAIT_MAX;
    loop {
        let answer = sidecar.ask(&client(settings.clone()), READ).await;
        if answer.ok().map(|answer| answer.status().as_u16()) == code {
            return;
        }
        assert!(Instant::now() < until, "the new file is not in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_replaced_on_both_sides_without_a_failed_request() {
    let dir = tempfile::tempdir().unwrap();
    let served = write(dir.path(), "served", "first-token\n");
    let sent = write(dir.path(), "sent", "first-token");
    let flags = [("read-bearer-token-file", text(&served)), ("write-bearer-token-file", text(&served))];
    let sidecar = Arc::new(Sidecar::start(&flags).await);
    let settings = ClientSettings { bearer_token_file: Some(sent.clone()), ..Default::default() };
    let load = Load::start(&sidecar, &settings);
    load.go_on().await;
    write(dir.path(), "served", "first-token\nsecond-token\n");
    let second = Client::new(ClientSettings {
        bearer_token_file: Some(write(dir.path(), "second", "second-token")),
        ..Default::default()
    })
    .unwrap();
    let until = Instant::now() + WAIT_MAX;
    while sidecar.code(&second, READ).await != 200 {
        assert!(Instant::now() < until, "the new token is not in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Put in place at once, so that no client reads half of it.
    let fresh = write(dir.path(), "sent.new", "second-token");
    std::fs::rename(fresh, &sent).unwrap();
    load.go_on().await;
    // Requests under way may still carry the old one.
    load.go_on().await;
    println!("{} requests, none failed", load.stop().await);
    write(dir.path(), "served", "second-token\n");
    let first = write(dir.path(), "first", "first-token");
    let first = ClientSettings { bearer_token_file: Some(first), ..Default::default() };
    wait_code(&sidecar, &first, Some(401)).await;
    assert_eq!(sidecar.code(&second, WRITE).await, 204);
}

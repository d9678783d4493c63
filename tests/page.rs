//! The status page in a real browser: the demo live, problems as they come and go, a restart, a path prefix.

#[path = "support/browser.rs"]
mod browser;

use browser::Browser;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_inferno-sidecar");

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A demo, and the address of its server.
fn demo(speed: &str) -> (Running, String) {
    let mut child = Command::new(BINARY)
        .args(["demo", "--duration", "20m", "--speed", speed])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("curl ")?.1.trim_end_matches("/api/v1/variants").to_owned()))
        .expect("the demo names its address");
    // The pipe must not fill up.
    std::thread::spawn(move || lines.for_each(drop));
    (Running(child), url)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn serve(dir: &Path, port: u16) -> Running {
    let child = Command::new(BINARY)
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--config-dir"])
        .arg(dir)
        .stderr(Stdio::null())
        .spawn();
    let running = Running(child.expect("the binary runs"));
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running
}

#[test]
fn the_demo_is_shown_live_in_light_dark_and_on_a_phone() {
    let (_demo, url) = demo("40");
    let mut browser = Browser::start();
    browser.look(1280, 900, false);
    browser.open(&format!("{url}/"));
    browser.wait_for("document.querySelectorAll('.variant').length === 3");
    browser.wait_for("document.getElementById('link').textContent === 'live'");
    // The load rises, replicas are asked for, and the page says so without being loaded again.
    browser.wait_for("document.querySelectorAll('#changes li').length >= 2");
    let changes = browser.text("#changes");
    assert!(changes.contains("1 → 2") && changes.contains("replicas"), "{changes}");
    browser.value("document.querySelectorAll('.variant')[2].open = true");
    browser.wait_for("document.querySelectorAll('.variant[open] .charts figure').length === 6");
    browser.wait_for("document.querySelector('.plot path').getAttribute('d').includes('V')");
    let inside = browser.text(".variant[open]");
    for expected in
        ["llama-8b-l40s", "Time to first token", "SLO", "Deployment", "slo", "a replica carries", "Premium"]
    {
        assert!(inside.contains(expected), "{expected:?} in\n{inside}");
    }
    browser.picture("light");
    browser.look(1280, 900, true);
    assert_eq!(browser.value("getComputedStyle(document.body).backgroundColor"), "rgb(15, 19, 25)");
    browser.picture("dark");
    browser.look(390, 844, true);
    assert_eq!(
        browser.value("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "it scrolls sideways"
    );
    browser.picture("phone");
    let resources =
        "performance.getEntriesByType('resource').every((one) => one.name.startsWith(location.origin))";
    assert_eq!(browser.value(resources), true, "only the sidecar is asked");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn problems_come_and_go_and_a_restart_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = serve(dir.path(), port);
    let mut browser = Browser::start();
    browser.look(1280, 900, false);
    browser.open(&format!("http://127.0.0.1:{port}/"));
    browser.wait_for("!document.getElementById('empty').hidden");
    assert!(browser.text("#empty").contains("No variants are configured"));
    browser.picture("empty");

    let config = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.yaml")).unwrap();
    fs::write(dir.path().join("c.yaml"), config.replace("maxReplicas: 10", "maxReplicas: <b>ten</b>"))
        .unwrap();
    browser.wait_for("document.querySelectorAll('#problems li').length === 1");
    let problem = browser.text("#problems");
    assert!(problem.contains("maxReplicas") && problem.contains("<b>ten</b>"), "{problem}");
    assert!(browser.text("#notice").contains("no remote-write sample"), "{}", browser.text("#notice"));
    assert!(
        browser.text(".variant .chip").contains("no decision yet")
            || browser.text(".chip").contains("no input")
    );
    browser.picture("problem");
    fs::write(dir.path().join("c.yaml"), config).unwrap();
    browser.wait_for("document.getElementById('problems').hidden");

    drop(server);
    browser.wait_for("document.getElementById('link').textContent === 'connection lost'");
    assert!(browser.text("#notice").contains("from before"));
    assert_eq!(browser.value("document.querySelectorAll('.variant').length"), 3, "the last state stays");
    browser.picture("lost");
    let _server = serve(dir.path(), port);
    browser.wait_for("document.getElementById('link').textContent === 'live'");
}

/// A reverse proxy that serves everything below a path and takes the path away.
fn proxy(below: &'static str, url: &str) -> u16 {
    let port = free_port();
    let url = url.to_owned();
    let router = axum::Router::new().fallback(move |uri: axum::http::Uri| {
        let url = url.clone();
        async move {
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let Some(path) = path.strip_prefix(below) else { return Err(axum::http::StatusCode::NOT_FOUND) };
            let path = if path.is_empty() { "/" } else { path };
            let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
            let request = axum::http::Request::get(format!("{url}{path}")).header("accept", "text/html");
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = client.build_http().request(request).await.unwrap();
            Ok(answer.map(axum::body::Body::new))
        }
    });
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    port
}

#[test]
fn it_works_below_a_path() {
    let (_demo, url) = demo("10");
    let port = proxy("/tools/inferno", &url);
    let mut browser = Browser::start();
    for path in ["/tools/inferno", "/tools/inferno/"] {
        browser.open(&format!("http://127.0.0.1:{port}{path}"));
        browser.wait_for("document.querySelectorAll('.variant').length === 3");
        assert!(
            browser
                .value("document.querySelector('footer a').href")
                .as_str()
                .unwrap()
                .ends_with("/tools/inferno/metrics")
        );
    }
    assert_eq!(browser.errors, Vec::<String>::new());
}

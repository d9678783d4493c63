//! A headless Chromium, driven by the DevTools protocol over a pipe.

use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for a condition on the page.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    /// Errors that the page logged, violations of its policy among them.
    pub errors: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// A browser with one empty page.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder for the profile");
        // The protocol is spoken over the file descriptors 3 and 4.
        let script = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --user-data-dir=\"$0\" --remote-debugging-pipe 3<&0 4>&1 >/dev/null 2>&1";
        let mut child = Command::new("bash")
            .args(["-c", script])
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash runs");
        let commands = child.stdin.take().expect("it is a pipe");
        let messages = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut browser = Browser {
            child,
            commands,
            messages,
            session: None,
            last_id: 0,
            errors: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
    }

    /// Size of the window, and whether colors are dark.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Value of a JavaScript expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Text of what a selector finds, as it is to be seen.
    pub fn text(&mut self, selector: &str) -> String {
        let expression =
            format!("[...document.querySelectorAll({selector:?})].map((one) => one.innerText).join('\\n')");
        self.value(&expression).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a JavaScript expression is true; until the page is loaded it may fail.
    pub fn wait_for(&mut self, expression: &str) {
        let started = Instant::now();
        let evaluate = json!({"expression": expression, "returnByValue": true});
        while self.call("Runtime.evaluate", evaluate.clone())["result"]["value"] != true {
            let body = if started.elapsed() > WAIT_MAX { self.text("body") } else { String::new() };
            assert!(started.elapsed() < WAIT_MAX, "never true: {expression}; the page says\n{body}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A picture of the whole page, kept in the folder that `INFERNO_TEST_SCREENSHOTS` names, if it does.
    pub fn picture(&mut self, name: &str) {
        let answer = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let png = base64::engine::general_purpose::STANDARD.decode(answer["data"].as_str().expect("data"));
        let png = png.expect("base64");
        assert!(png.starts_with(b"\x89PNG"));
        if let Some(dir) = std::env::var_os("INFERNO_TEST_SCREENSHOTS") {
            std::fs::write(std::path::Path::new(&dir).join(format!("{name}.png")), png).expect("written");
        }
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let sent = write!(self.commands, "{command}\0").and_then(|()| self.commands.flush());
        sent.expect("chromium runs; is it installed? tests/run installs it");
        loop {
            let mut message = Vec::new();
            self.messages.read_until(0, &mut message).expect("chromium answers");
            assert_eq!(message.pop(), Some(0), "chromium has ended; is it installed? tests/run installs it");
            let message: Value = serde_json::from_slice(&message).expect("JSON");
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        let is_error = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => params["type"] == "error",
            _ => false,
        };
        if is_error {
            self.errors.push(params.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has children of its own, which end with their parent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

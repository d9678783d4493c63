//! Asks for the counts of one variant all the time, as several autoscalers would, and remembers what must
//! never happen under a load that only grows: an empty answer, or a count that falls.

use crate::client::{get, vector};
use crate::{L40S, value_of};
use axum::http::StatusCode;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Seen {
    answers: u64,
    refusals: u64,
    highest: BTreeMap<&'static str, u32>,
    complaints: Vec<String>,
}

pub struct Monitor {
    seen: Arc<Mutex<Seen>>,
}

impl Monitor {
    pub fn start(sidecar: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let monitor = Monitor { seen: seen.clone() };
        tokio::spawn(async move {
            loop {
                for name in ["inferno_desired_replicas", "inferno_current_replicas"] {
                    ask(sidecar, name, &seen).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        monitor
    }

    pub fn assert_no_complaint(&self) {
        let seen = self.seen.lock().expect("no holder panics");
        assert!(seen.complaints.is_empty(), "{:#?}", seen.complaints);
        say!("{} answers and {} refusals, the counts never fell", seen.answers, seen.refusals);
    }
}

async fn ask(sidecar: SocketAddr, name: &'static str, seen: &Mutex<Seen>) {
    // While the sidecar is down there is no answer at all, which autoscalers understand.
    let Ok(answer) =
        get(sidecar, &format!("/api/v1/query?query={name}%7Bvariant_name=%22{L40S}%22%7D")).await
    else {
        return;
    };
    let found = (answer.status == StatusCode::OK).then(|| vector(&answer));
    let mut seen = seen.lock().expect("no holder panics");
    match found {
        Some(vector) => {
            seen.answers += 1;
            let highest = seen.highest.get(name).copied().unwrap_or(0);
            match vector.as_slice() {
                [element] if value_of(element) >= highest => {
                    seen.highest.insert(name, value_of(element));
                }
                _ => seen.complaints.push(format!("{name} after {highest}: {}", answer.text())),
            }
        }
        None => {
            seen.refusals += 1;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                seen.complaints.push(format!("{name}: {} {}", answer.status, answer.text()));
            }
        }
    }
}

//! The stream of an `external-push` trigger: whether the scale target should have replicas, at once and
//! whenever that changes.

use super::super::Closing;
use super::trigger::Trigger;
use crate::limits::SCALER_REPEAT_S;
use crate::runner::Handle;
use futures_util::stream::{Stream, unfold};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

/// KEDA takes `true` as a sign of life as well, so it is repeated.
const REPEAT: Duration = Duration::from_secs(SCALER_REPEAT_S);

/// One open stream.
pub struct Push {
    trigger: Trigger,
    engine: Handle,
    moves: watch::Receiver<u64>,
    closing: Option<Closing>,
    sent: Option<bool>,
    repeat_at: Instant,
    failed: bool,
}

/// Why a stream goes on.
enum Woken {
    Changed,
    Repeat,
    Ended,
}

impl Push {
    /// A stream that has not said anything yet.
    pub fn new(trigger: Trigger, engine: Handle, closing: Option<Closing>) -> Self {
        let moves = engine.moves();
        let repeat_at = Instant::now() + REPEAT;
        Push { trigger, engine, moves, closing, sent: None, repeat_at, failed: false }
    }

    /// The answers, until the server closes.
    pub fn into_stream(self) -> impl Stream<Item = Result<bool, Status>> {
        unfold(self, |mut push| async move {
            let item = push.next().await?;
            Some((item, push))
        })
    }

    async fn next(&mut self) -> Option<Result<bool, Status>> {
        if self.failed {
            return None;
        }
        loop {
            // Marked as seen before the board is read, so that no later board is missed.
            self.moves.borrow_and_update();
            match self.look() {
                Err(status) => {
                    self.failed = true;
                    return Some(Err(status));
                }
                Ok(Some(active)) if self.sent != Some(active) => return Some(Ok(self.send(active))),
                Ok(_) => {}
            }
            match self.wait().await {
                Woken::Changed => {}
                Woken::Repeat => return Some(Ok(self.send(true))),
                Woken::Ended => return None,
            }
        }
    }

    fn send(&mut self, active: bool) -> bool {
        self.sent = Some(active);
        self.repeat_at = Instant::now() + REPEAT;
        active
    }

    /// `None` while nothing is decided: the stream then waits, because after an error KEDA would wait for
    /// up to a minute before it opens another.
    fn look(&self) -> Result<Option<bool>, Status> {
        let board = self.engine.board();
        match self.trigger.desired(&board, self.engine.clock.reader_now(&board)) {
            Ok(desired) => Ok(Some(self.trigger.is_active(desired))),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) => Err(status),
        }
    }

    async fn wait(&mut self) -> Woken {
        let repeating = self.sent == Some(true);
        tokio::select! {
            changed = self.moves.changed() => match changed {
                Ok(()) => Woken::Changed,
                // The engine has ended, as it does with the process.
                Err(_) => Woken::Ended,
            },
            () = closed(self.closing.clone()) => Woken::Ended,
            () = tokio::time::sleep_until(self.repeat_at), if repeating => Woken::Repeat,
        }
    }
}

/// Completes when the server is about to end; never if nobody can tell.
pub async fn closed(closing: Option<Closing>) {
    match closing {
        Some(closing) => closing.closed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::ScaledObjectRef;
    use super::*;
    use crate::config::objects::documents;
    use crate::config::resolve::{Resolved, resolve};
    use crate::emulate::standard::CONFIG_YAML;
    use crate::engine::Engine;
    use crate::proto::{Label, Sample, TimeSeries, WriteRequest};
    use crate::runner::{self, Clock};
    use crate::series::dialect::Dialects;
    use crate::wire::Version;
    use futures_util::StreamExt;
    use prost::Message;
    use std::sync::Arc;

    /// An engine that has decided on one replica of a variant.
    async fn decided() -> Handle {
        let engine = Engine::new(Arc::new(Dialects::built_in()));
        let (engine, _thread) = runner::spawn(engine, Clock::Samples).expect("a thread");
        let resolved = resolve(&documents("demo.yaml", CONFIG_YAML), &Resolved::default());
        engine.apply(resolved.snapshot, Arc::from([])).expect("the engine runs");
        let name = "qwen-14b-h100";
        let series = |pairs: &[(&str, &str)], value| TimeSeries {
            labels: pairs
                .iter()
                .map(|(name, value)| Label { name: (*name).into(), value: (*value).into() })
                .collect(),
            samples: vec![Sample { value, timestamp: 1_767_225_600_000 }],
            ..TimeSeries::default()
        };
        let mut timeseries = Vec::new();
        for metric in ["vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:num_requests_running"] {
            let pod = format!("{name}-7d9c5b8f6d-bbbbb");
            let labels = [
                ("__name__", metric),
                ("model_name", "Qwen/Qwen3-14B"),
                ("namespace", "llm"),
                ("pod", &*pod),
            ];
            timeseries.push(series(&labels, 0.0));
        }
        for metric in ["kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"] {
            timeseries.push(series(&[("__name__", metric), ("deployment", name), ("namespace", "llm")], 1.0));
        }
        let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        let len = message.len();
        let done = engine.write(Version::V1, message, len).expect("there is room").await.expect("answered");
        assert!(done.outcome.is_ok());
        engine
    }

    async fn stream(threshold: &str) -> impl Stream<Item = Result<bool, Status>> {
        let pairs = [("variantName", "qwen-14b-h100"), ("activationThreshold", threshold)];
        let object = ScaledObjectRef {
            name: "x".into(),
            namespace: "llm".into(),
            scaler_metadata: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        let trigger = Trigger::parse(&object).expect("valid");
        Box::pin(Push::new(trigger, decided().await, None).into_stream())
    }

    #[tokio::test(start_paused = true)]
    async fn an_active_target_is_repeated() {
        let mut stream = stream("0").await;
        assert!(stream.next().await.unwrap().unwrap());
        for _ in 0..3 {
            let before = Instant::now();
            assert!(stream.next().await.unwrap().unwrap());
            let waited = before.elapsed();
            assert!(waited >= REPEAT && waited < REPEAT + Duration::from_millis(100), "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_inactive_target_is_told_once() {
        let mut stream = stream("1").await;
        assert!(!stream.next().await.unwrap().unwrap());
        let more = tokio::time::timeout(10 * REPEAT, stream.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

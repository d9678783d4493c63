//! Golden records of the solver: whole systems, unlimited and greedy.
//!
//! Candidates are computed from the system and compared; then the solver runs on the peer's own
//! candidates, so that its decisions are judged alone. Decisions must be exact.

use crate::report::Report;
use inferno_sidecar::analyze::queueing::{
    Allocation, AllocationInput, BatchSource, Revision, Tokens, allocate,
};
use inferno_sidecar::config::{PerfParms, SloTargets};
use inferno_sidecar::optimize::solver::{
    Candidate, Current, Grant, Options, Problem, SaturationPolicy, Search, Server, solve, transition_value,
};
use serde_json::Value;
use std::collections::BTreeMap;

const FLAT: &str = "10.1: a candidate that the peer's search wrongly takes or leaves";
const CONDITION: &str =
    "section 1: single precision cannot tell the rates apart; the peer's meets the target";
const ZERO_REPLICAS: &str = "10.15: a server whose best candidate is no replicas keeps that allocation";
const REDUCED: &str = "10.16: a reduced allocation is valued at its own cost and load, not scaled";
// Not visible as a difference: 10.14 (ties by name; the vectors hold stable answers only), 10.7, 10.8 and
// 10.10 (candidates are compared as published; the queueing records show those differences).

/// What a record showed: agreement, an accepted difference, or a failure.
type Verdict = Result<Option<&'static str>, String>;

/// Runs all solver records.
pub fn run(report: &mut Report, records: &[Value]) {
    for record in records {
        let verdict = System::of(record).and_then(|system| {
            let candidates = system.check_candidates()?;
            Ok(system.check_solution()?.or(candidates))
        });
        match verdict {
            Ok(None) => report.agree(),
            Ok(Some(reason)) => report.deviate(reason),
            Err(why) => report.fail(record["id"].as_str().unwrap_or("?"), why),
        }
    }
}

/// A number rounded to single precision, as the peer sees it.
fn single(value: &Value) -> f64 {
    f64::from(value.as_f64().unwrap_or(0.0) as f32)
}

fn whole(value: &Value) -> u32 {
    value.as_f64().unwrap_or(0.0).clamp(0.0, f64::from(u32::MAX)) as u32
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn near(got: f64, want: &Value, relative: f64, absolute: f64) -> bool {
    let want = single(want);
    (got - want).abs() <= relative * want.abs() + absolute
}

/// Whether the demand is a whole number of replicas within single precision, or the peer's rate differs by
/// more than its tolerance and yet meets the targets in double precision within 1e-6: then the peer could
/// not see the difference.
fn badly_conditioned(asked: &AllocationInput, ours: &Allocation, their: &Value) -> bool {
    let rate_per_ms = single(&their["max_rate_per_replica_per_ms"]);
    let differs = (rate_per_ms / ours.max_rate_per_replica_per_ms - 1.0).abs() > 1e-4;
    let Ok(at) = asked.queue().and_then(|queue| queue.metrics_at(rate_per_ms)) else { return false };
    let meets = |target: f64, value: f64| target == 0.0 || value <= target * (1.0 + 1e-6);
    let ratio = ours.replica_ratio;
    let tie = ours.replicas.abs_diff(whole(&their["replicas"])) == 1
        && (ratio - ratio.round()).abs() <= 1e-5 * ratio;
    (differs || tie) && meets(asked.targets.itl_ms, at.itl_ms) && meets(asked.targets.ttft_ms, at.ttft_ms)
}

/// A record with its names resolved.
struct System<'a> {
    record: &'a Value,
    system: &'a Value,
    /// Accelerators by name: index, type index, multiplicity, cost.
    accelerators: BTreeMap<&'a str, Accelerator>,
    kinds: Vec<&'a str>,
    capacity: Vec<u64>,
    /// Servers sorted by name.
    servers: Vec<&'a Value>,
}

#[derive(Clone, Copy)]
struct Accelerator {
    index: u32,
    kind: u32,
    multiplicity: u32,
    cost: f64,
}

impl<'a> System<'a> {
    fn of(record: &'a Value) -> Result<Self, String> {
        let system = &record["system"];
        let mut kinds = Vec::new();
        let mut capacity = Vec::new();
        for count in list(&system["capacityData"]["count"]) {
            kinds.push(text(&count["type"]));
            capacity.push(u64::from(whole(&count["count"])));
        }
        let mut accelerators = BTreeMap::new();
        for (index, entry) in list(&system["acceleratorData"]["accelerators"]).iter().enumerate() {
            let name = text(&entry["type"]);
            let kind = kinds.iter().position(|kind| *kind == name).unwrap_or_else(|| {
                kinds.push(name);
                capacity.push(0);
                kinds.len() - 1
            });
            let accelerator = Accelerator {
                index: index as u32,
                kind: kind as u32,
                multiplicity: whole(&entry["multiplicity"]),
                cost: single(&entry["cost"]),
            };
            accelerators.insert(text(&entry["name"]), accelerator);
        }
        let mut servers: Vec<&Value> = list(&system["serverData"]["servers"]).iter().collect();
        servers.sort_by_key(|server| text(&server["name"]));
        if servers.is_empty() {
            return Err("no servers".into());
        }
        Ok(System { record, system, accelerators, kinds, capacity, servers })
    }

    fn tagged(&self, tag: &str) -> bool {
        list(&self.record["tags"]).iter().any(|t| t == tag)
    }

    fn profile(&self, server: &Value, accelerator: &str) -> Option<&'a Value> {
        list(&self.system["modelData"]["models"])
            .iter()
            .find(|profile| profile["name"] == server["model"] && profile["acc"] == accelerator)
    }

    fn class(&self, server: &Value) -> Option<&'a Value> {
        list(&self.system["serviceClassData"]["serviceClasses"])
            .iter()
            .find(|class| class["name"] == server["class"])
    }

    fn current(&self, server: &Value) -> Current {
        let current = &server["currentAlloc"];
        Current {
            accelerator: self.accelerators.get(text(&current["accelerator"])).map(|acc| acc.index),
            replicas: whole(&current["numReplicas"]),
            cost: single(&current["cost"]),
        }
    }

    fn cards(&self, server: &Value, accelerator: &str) -> (u32, u32) {
        let known = self.accelerators.get(accelerator);
        let count = self.profile(server, accelerator).map_or(1, |p| whole(&p["accCount"])).max(1);
        known.map_or((u32::MAX, 1), |acc| (acc.kind, count * acc.multiplicity))
    }

    /// The generation C question behind one candidate, as published (a throughput target replaces the
    /// measured rate).
    fn question(&self, server: &Value, accelerator: &str) -> Option<AllocationInput> {
        let profile = self.profile(server, accelerator)?;
        let target = list(&self.class(server)?["modelTargets"])
            .iter()
            .find(|target| target["model"] == server["model"])?;
        let (load, parms) = (&server["currentAlloc"]["load"], &profile["serviceParms"]);
        let targets = SloTargets {
            ttft_ms: single(&target["slo-ttft"]),
            itl_ms: single(&target["slo-itl"]),
            tps: single(&target["slo-tps"]),
        };
        let tokens = Tokens { input: single(&load["avgInTokens"]), output: single(&load["avgOutTokens"]) };
        let measured = single(&load["arrivalRate"]) / 60.0;
        let promised = targets.tps > 0.0 && measured > 0.0;
        let count = f64::from(whole(&profile["accCount"]).max(1));
        Some(AllocationInput {
            parms: PerfParms::Iteration {
                alpha: single(&parms["alpha"]),
                beta: single(&parms["beta"]),
                gamma: single(&parms["gamma"]),
            },
            revision: Revision::default(),
            tokens,
            rate_per_s: if promised { targets.tps / tokens.output } else { measured },
            targets,
            batch: BatchSource {
                stated: whole(&server["maxBatchSize"]),
                profile: whole(&profile["maxBatchSize"]),
                at_tokens: whole(&profile["atTokens"]),
            },
            min_replicas: whole(&server["minNumReplicas"]),
            max_replicas: None,
            cost_per_replica: count * self.accelerators.get(accelerator)?.cost,
        })
    }

    /// Compares our candidates with the peer's.
    fn check_candidates(&self) -> Verdict {
        let mut wrong = Vec::new();
        let mut reason = None;
        for server in &self.servers {
            let pinned = text(&server["currentAlloc"]["accelerator"]);
            let theirs = list(&self.record["out"]["candidates"][text(&server["name"])]);
            for name in self.accelerators.keys() {
                if server["keepAccelerator"] == true && !pinned.is_empty() && *name != pinned {
                    continue;
                }
                let question = self.question(server, name);
                let ours = question.and_then(|question| allocate(&question).ok());
                let their = theirs.iter().find(|candidate| candidate["key"] == *name);
                match (ours, their) {
                    (None, None) => {}
                    (Some(ours), Some(their)) => {
                        let same = self.check_candidate(server, name, &ours, their);
                        match same {
                            Ok(()) => {}
                            Err(_)
                                if question.is_some_and(|asked| badly_conditioned(&asked, &ours, their)) =>
                            {
                                reason = Some(CONDITION);
                            }
                            Err(why) => wrong.push(format!("{} on {name}: {why}", text(&server["name"]))),
                        }
                    }
                    (ours, _) => wrong.push(format!(
                        "{} on {name}: ours {}",
                        text(&server["name"]),
                        if ours.is_some() { "takes it" } else { "leaves it" }
                    )),
                }
            }
        }
        match wrong.is_empty() {
            true => Ok(reason),
            false if self.tagged("candidate_anomaly") => Ok(Some(FLAT)),
            false => Err(wrong.join("; ")),
        }
    }

    fn check_candidate(
        &self,
        server: &Value,
        name: &str,
        ours: &Allocation,
        their: &Value,
    ) -> Result<(), String> {
        let index = (ours.replicas > 0).then(|| self.accelerators[name].index);
        let value = transition_value(&self.current(server), index, ours.replicas, ours.cost);
        let scale = ours.cost + single(&server["currentAlloc"]["cost"]);
        let mut same = ours.replicas == whole(&their["replicas"])
            && near(ours.cost, &their["cost"], 1e-6, 0.0)
            && near(value, &their["value"], 1e-6, 1e-6 * scale);
        if ours.response_ms > 0.0 {
            let noise = 1e-6 * ours.response_ms;
            same &= ours.batch == whole(&their["batch"])
                && near(ours.itl_ms, &their["itl_ms"], 3e-6, 0.0)
                && near(ours.wait_ms + ours.prefill_ms, &their["ttft_ms"], 1e-5, noise)
                && near(ours.rho, &their["rho"], 3e-6, 0.0)
                && near(ours.max_rate_per_replica_per_ms, &their["max_rate_per_replica_per_ms"], 1e-4, 0.0);
        }
        if same { Ok(()) } else { Err(format!("{ours:?} value {value}, expected {their}")) }
    }

    /// The peer's candidates of a server, lowered.
    fn server(&self, server: &Value) -> Server {
        let candidates = list(&self.record["out"]["candidates"][text(&server["name"])])
            .iter()
            .map(|candidate| {
                let name = text(&candidate["accelerator"]);
                let (kind, cards_per_replica) = self.cards(server, name);
                Candidate {
                    accelerator: self.accelerators.get(name).map(|acc| acc.index),
                    kind,
                    cards_per_replica,
                    replicas: whole(&candidate["replicas"]),
                    cost: single(&candidate["cost"]),
                    value: single(&candidate["value"]),
                }
            })
            .collect();
        let priority = self.class(server).map_or(100, |class| whole(&class["priority"]));
        Server { priority, current: self.current(server), candidates }
    }

    fn check_solution(&self) -> Verdict {
        let optimizer = &self.system["optimizerData"]["optimizer"];
        let options = Options {
            unlimited: optimizer["unlimited"] == true,
            delayed_best_effort: optimizer["delayedBestEffort"] == true,
            policy: SaturationPolicy::from_name(text(&optimizer["saturationPolicy"])),
            search: Search::Greedy,
        };
        let servers: Vec<Server> = self.servers.iter().map(|server| self.server(server)).collect();
        let problem = Problem { servers, capacity: self.capacity.clone() };
        let solution = solve(&problem, &options);
        let mut reason = None;
        for (at, server) in self.servers.iter().enumerate() {
            let name = text(&server["name"]);
            let found = self.check_grant(server, &problem.servers[at], solution.grants[at].as_ref());
            reason = reason.or(found.map_err(|why| format!("{name}: {why}"))?);
        }
        self.check_kinds(&problem, &solution.used, &solution.grants)?;
        Ok(reason)
    }

    fn check_grant(&self, server: &Value, lowered: &Server, ours: Option<&Grant>) -> Verdict {
        let their = &self.record["out"]["allocations"][text(&server["name"])];
        let Some(ours) = ours else {
            return if their.is_null() { Ok(None) } else { Err(format!("nothing, expected {their}")) };
        };
        let chosen = &lowered.candidates[ours.candidate as usize];
        if their.is_null() && chosen.accelerator.is_none() {
            return Ok(Some(ZERO_REPLICAS));
        }
        let accelerator = self.accelerators.get(text(&their["accelerator"])).map(|acc| acc.index);
        let same = accelerator == chosen.accelerator
            && ours.replicas == whole(&their["replicas"])
            && near(ours.cost, &their["cost"], 1e-6, 0.0);
        let reduced = ours.replicas < ours.wanted;
        match same && (reduced || near(ours.value, &their["value"], 1e-6, 0.0)) {
            true => Ok(reduced.then_some(REDUCED)),
            false => Err(format!("{ours:?}, expected {their}")),
        }
    }

    /// Cards, limit and cost per type.
    fn check_kinds(&self, problem: &Problem, used: &[u64], grants: &[Option<Grant>]) -> Result<(), String> {
        let mut cost = vec![0.0; used.len()];
        for (server, grant) in problem.servers.iter().zip(grants) {
            let Some(grant) = grant else { continue };
            let kind = server.candidates[grant.candidate as usize].kind as usize;
            cost.get_mut(kind).into_iter().for_each(|cost| *cost += grant.cost);
        }
        for their in list(&self.record["out"]["by_type"]) {
            let Some(kind) = self.kinds.iter().position(|kind| their["type"] == *kind) else {
                return Err(format!("type {} is unknown", their["type"]));
            };
            let same = used[kind] == u64::from(whole(&their["count"]))
                && self.capacity[kind] == u64::from(whole(&their["limit"]))
                && near(cost[kind], &their["cost"], 1e-5, 1e-5);
            if !same {
                return Err(format!("{} cards, cost {}, expected {their}", used[kind], cost[kind]));
            }
        }
        Ok(())
    }
}

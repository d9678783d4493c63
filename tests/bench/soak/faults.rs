//! What goes wrong around the sidecar during the soak.

use crate::fleet::namespace;
use crate::link::{Link, get};
use crate::sidecar::Sidecar;
use crate::world::{REQUESTS_PER_S, VARIANTS, World};
use inferno_sidecar::runner::wall_now;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Variants whose bounds change at once.
const CHANGED: usize = 20;
/// Requests for which the folder of the configuration is away.
const AWAY: usize = 3 * REQUESTS_PER_S;
/// Requests for which the disk of the recording is full.
const FULL: usize = 5 * REQUESTS_PER_S;
/// Time for which the process is stopped.
const STOPPED: Duration = Duration::from_secs(2);

pub struct Faults {
    address: SocketAddr,
    config: PathBuf,
    next: usize,
    /// Request at which the folder comes back.
    away_until: Option<usize>,
    /// Request at which the disk has room again.
    full_until: Option<usize>,
    /// Connections on which nothing follows.
    idle: Vec<Link>,
}

impl Faults {
    pub fn new(address: SocketAddr, config: &Path) -> Self {
        Faults {
            address,
            config: config.to_owned(),
            next: 0,
            away_until: None,
            full_until: None,
            idle: Vec::new(),
        }
    }

    fn elsewhere(&self) -> PathBuf {
        self.config.with_extension("away")
    }

    /// Gives other bounds to other variants; says whether it could.
    pub fn change_configuration(&mut self, number: usize) -> bool {
        let mut yaml = String::new();
        for at in 0..CHANGED {
            let variant = (number * CHANGED + at) % VARIANTS;
            let _ = write!(
                yaml,
                "---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\n\
                 metadata: {{name: bounds-{variant}, namespace: {}}}\n\
                 spec: {{minReplicas: {}, maxReplicas: {}, \
                 scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: variant-{variant}}}}}\n",
                namespace(variant),
                1 + number % 2,
                3 + number % 3,
            );
        }
        fs::write(self.config.join("bounds.yaml"), yaml).is_ok()
    }

    /// Brings back what was away for long enough.
    pub fn end_what_is_due(&mut self, number: usize, sidecar: &Sidecar) {
        let is_due = |until: Option<usize>| until.is_some_and(|until| number >= until);
        if is_due(self.away_until) || is_due(self.full_until) {
            self.end_all(sidecar);
        }
    }

    /// Ends every fault that goes on.
    pub fn end_all(&mut self, sidecar: &Sidecar) {
        if self.full_until.take().is_some() {
            sidecar.free_disk();
        }
        if self.away_until.take().is_some() {
            fs::rename(self.elsewhere(), &self.config).expect("the folder comes back");
        }
        let _ = fs::remove_file(self.config.join("broken.yaml"));
        self.idle.clear();
    }

    /// Makes the next fault and names it.
    pub fn next(
        &mut self,
        number: usize,
        request: &[u8],
        sidecar: &Sidecar,
        world: &mut World,
    ) -> &'static str {
        self.next += 1;
        let expect = |request: &[u8], wanted: u16| {
            let mut link = Link::open(self.address);
            link.send(request);
            let (status, body) = link.answer();
            assert_eq!(status, wanted, "{}", String::from_utf8_lossy(&body));
        };
        match self.next % 10 {
            0 => {
                Link::open(self.address).send(&request[..request.len() / 2]);
                "sender dies within a request"
            }
            1 => {
                let mut damaged = request.to_vec();
                let end = damaged.len();
                damaged[end - 2_000..].fill(0xa5);
                expect(&damaged, 400);
                "damaged request"
            }
            2 => {
                expect(request, 204);
                "the same request from a second sender"
            }
            3 => {
                expect(&world.request_at(wall_now() + 3_600_000), 400);
                "samples from an hour ahead"
            }
            4 => {
                expect(&world.request_at(wall_now() - 3_600_000), 204);
                "samples an hour late"
            }
            5 => {
                fs::rename(&self.config, self.elsewhere()).expect("the folder is ours");
                self.away_until = Some(number + AWAY);
                "folder of the configuration away for 3 s"
            }
            6 => {
                let broken = "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\nspec: [\n";
                fs::write(self.config.join("broken.yaml"), broken).expect("the folder is ours");
                "broken file of configuration"
            }
            7 => {
                let began = Instant::now();
                sidecar.process.signal("STOP");
                sleep(STOPPED);
                sidecar.process.signal("CONT");
                world.paused += began.elapsed();
                "process stopped for 2 s"
            }
            8 => {
                assert!(sidecar.fill_disk(), "the disk of the recording is reached");
                self.full_until = Some(number + FULL);
                "no room on the disk of the recording for 5 s"
            }
            _ => {
                let path = get("/api/v1/query?query=inferno_desired_replicas");
                for _ in 0..50 {
                    let mut link = Link::open(self.address);
                    link.send(&path[..path.len() / 2]);
                    self.idle.push(link);
                }
                "50 connections with half a request"
            }
        }
    }
}

//! The sidecar of the soak as a process that ends and comes back at the same address, and the Prometheus that
//! fills its windows when it does.

use crate::link::{Link, await_ready, free_address, get};
use crate::process::Process;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Mounts a disk at its first argument, where only this process sees it, and becomes the rest.
const OWN_DISK: &str = "mount -t tmpfs -o size=96m none \"$0\" && exec \"$@\"";
/// Most bytes of the recording: what is left of the disk is filled to make it full.
const RECORD_SIZE: &str = "64MiB";
/// Time between two attempts of a sender.
const RETRY: Duration = Duration::from_millis(100);

/// How a sidecar ended and came back.
pub struct Restart {
    /// From the signal to its end, ms.
    pub ended_ms: f64,
    /// From its start to the first answer of success to a sender, ms.
    pub back_ms: f64,
    /// Attempts of the sender until then.
    pub attempts: u64,
}

/// The sidecar that is soaked.
pub struct Sidecar {
    pub process: Process,
    pub address: SocketAddr,
    pub program: PathBuf,
    pub config: PathBuf,
    disk: PathBuf,
    prometheus: SocketAddr,
    began: Instant,
}

impl Sidecar {
    /// Starts it; its windows are filled from `prometheus`, and it records on a small disk of its own.
    pub fn start(program: &Path, root: &Path, files: &[String], prometheus: SocketAddr) -> Self {
        let (config, disk) = (root.join("config"), root.join("disk"));
        for dir in [&config, &disk] {
            std::fs::create_dir(dir).expect("the folder is ours");
        }
        for (number, file) in files.iter().enumerate() {
            std::fs::write(config.join(format!("{number}.yaml")), file).expect("the folder is ours");
        }
        let address = free_address();
        let process = run(program, address, &config, &disk, prometheus);
        let program = program.to_owned();
        let mut sidecar =
            Sidecar { process, address, program, config, disk, prometheus, began: Instant::now() };
        await_ready(&mut sidecar.process, address, "/-/healthy");
        let said = Link::open(address).read(&reload());
        assert!(said.contains(" 0 problems"), "{said}");
        sidecar
    }

    /// Time since the process began.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends it in the middle of a request, asked to or not, and starts it anew. The sender repeats the request until
    /// it is taken.
    pub fn restart(&mut self, asked: bool, request: &[u8]) -> Restart {
        let mut link = Link::open(self.address);
        let (first, second) = request.split_at(request.len() / 2);
        link.send(first);
        let ending = Instant::now();
        if asked {
            self.process.signal("TERM");
            link.send(second);
            let (status, body) = link.answer();
            assert_eq!(status, 204, "{}", String::from_utf8_lossy(&body));
            let status = self.process.wait();
            assert!(status.success(), "told to end, it ends with {status}");
        } else {
            self.process.kill();
        }
        let ended_ms = ending.elapsed().as_secs_f64() * 1e3;
        logged(&self.process);
        self.began = Instant::now();
        self.process = run(&self.program, self.address, &self.config, &self.disk, self.prometheus);
        let mut attempts = 1;
        while !attempt(self.address, request).is_ok_and(|status| status == 204) {
            self.process.assert_running();
            sleep(RETRY);
            attempts += 1;
        }
        await_ready(&mut self.process, self.address, "/-/ready");
        Restart { ended_ms, back_ms: self.began.elapsed().as_secs_f64() * 1e3, attempts }
    }

    fn filler(&self) -> PathBuf {
        let disk = self.disk.strip_prefix("/").expect("temporary folders have absolute paths");
        Path::new("/proc").join(self.process.id().to_string()).join("root").join(disk).join("filler")
    }

    /// Leaves no room on the disk of the recording; says whether it could.
    pub fn fill_disk(&self) -> bool {
        let Ok(mut filler) = File::create(self.filler()) else { return false };
        while filler.write_all(&[0; 64 << 10]).is_ok() {}
        // What is left of the last block.
        while filler.write_all(&[0; 64]).is_ok() {}
        true
    }

    /// Gives the room back.
    pub fn free_disk(&self) {
        let _ = std::fs::remove_file(self.filler());
    }
}

fn run(program: &Path, address: SocketAddr, config: &Path, disk: &Path, prometheus: SocketAddr) -> Process {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "bash", "-c", OWN_DISK]).arg(disk).arg(program);
    command.args(["serve", "--log", "warn", "--listen", &address.to_string()]);
    command.arg("--config-dir").arg(config).arg("--record").arg(disk).args(["--record-size", RECORD_SIZE]);
    command.arg(format!("--prometheus-url=http://{prometheus}"));
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("INFERNO_")) {
        command.env_remove(name);
    }
    Process::start("the sidecar", &mut command)
}

/// Status of the answer to a request on a connection of its own.
fn attempt(address: SocketAddr, request: &[u8]) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let code = String::from_utf8_lossy(&head[9..]).parse();
    code.map_err(|_| io::Error::other("no status line"))
}

/// The request to read the configuration now.
pub fn reload() -> Vec<u8> {
    b"POST /-/reload HTTP/1.1\r\nHost: sidecar\r\nContent-Length: 0\r\n\r\n".to_vec()
}

/// Prometheus that is sent the same samples and keeps them.
pub fn prometheus(dir: &Path) -> (Process, SocketAddr) {
    let settings = dir.join("prometheus.yml");
    std::fs::write(&settings, "").expect("the folder is ours");
    let address = free_address();
    let mut command = Command::new("prometheus");
    command.args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
    command.arg(format!("--config.file={}", settings.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut process = Process::start("prometheus", &mut command);
    await_ready(&mut process, address, "/-/ready");
    (process, address)
}

/// What the log says that nobody wants to read.
pub fn logged(process: &Process) {
    for part in ["panicked", " ERROR "] {
        let lines = process.lines(part);
        println!("       lines of the log with {part:?}: {}", lines.len());
        lines.iter().take(3).for_each(|line| println!("       {line}"));
    }
}

/// Text of `/metrics`.
pub fn exposition(address: SocketAddr) -> String {
    Link::open(address).read(&get("/metrics"))
}

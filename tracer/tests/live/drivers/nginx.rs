//! A load whose server closes first: nginx from the distribution, asked by wrk with
//! `Connection: close`. Both are children of the test, with nothing outside a temporary directory.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::namespace::Namespace;

/// Where a program is: in `$TRACER_TOOLS/bin`, on PATH, or where distributions put servers.
pub fn find(program: &str) -> Option<PathBuf> {
    let tools = env::var_os("TRACER_TOOLS").map(|tools| PathBuf::from(tools).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    tools
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// nginx, answering every request with two bytes.
pub struct Nginx {
    master: Child,
    directory: TempDir,
    asked: AtomicU64,
}

impl Nginx {
    /// Starts it in the namespace and waits until it answers.
    pub fn start(namespace: &Namespace, ports: &[u16]) -> Self {
        let binary = find("nginx").expect("nginx is installed (Debian: apt-get install nginx)");
        let directory = tempfile::tempdir().expect("make a directory for nginx");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("open the directory to nginx's workers");
        let at = directory.path().display();
        let listen: String = ports
            .iter()
            .map(|port| format!("listen {port}; listen [::]:{port};"))
            .collect();
        let configuration = format!(
            "daemon off; user root; worker_processes 2; worker_rlimit_nofile 16384;
             pid {at}/pid; error_log {at}/error.log warn;
             events {{ worker_connections 4096; }}
             http {{
               access_log off; server_tokens off; default_type text/plain;
               client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
               fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi;
               scgi_temp_path {at}/scgi;
               server {{ {listen} location / {{ return 200 ok; }} }}
               server {{ listen unix:{at}/status; location / {{ stub_status; }} }}
             }}"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).expect("write nginx's configuration");
        let master = namespace.run(|| {
            Command::new(binary)
                .arg("-p")
                .arg(directory.path())
                .arg("-c")
                .arg(&file)
                .arg("-e")
                .arg(directory.path().join("error.log"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("start nginx")
        });
        let nginx = Self {
            master,
            directory,
            asked: AtomicU64::new(0),
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while nginx.status().is_none() {
            assert!(Instant::now() < deadline, "nginx: {}", nginx.errors());
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    /// TCP connections that it accepted so far, by its own count.
    pub fn accepted(&self) -> u64 {
        let status = self.status().expect("nginx tells its status");
        let counts = status
            .lines()
            .skip_while(|line| !line.starts_with("server accepts"))
            .nth(1)
            .expect("the status has counts");
        let accepts = counts.split_whitespace().next().expect("accepts are first");
        let accepts: u64 = accepts.parse().expect("accepts are a number");
        // Our own questions came over the unix socket.
        accepts - self.asked.load(Ordering::Relaxed)
    }

    /// Ends it and waits for that: its listeners are closed then.
    pub fn stop(mut self) {
        self.terminate();
    }

    fn status(&self) -> Option<String> {
        let mut stream = UnixStream::connect(self.directory.path().join("status")).ok()?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("server accepts").then_some(answer)
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    fn terminate(&mut self) {
        if !matches!(self.master.try_wait(), Ok(None)) {
            return;
        }
        // The master ends its workers itself, which a kill would not.
        let _ = rustix::process::kill_process(Pid::from_child(&self.master), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.master.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.master.kill();
                let _ = self.master.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// What wrk did.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Answers that it read whole.
    pub requests: u64,
    /// Its line of socket errors, if it had any.
    pub errors: Option<String>,
}

/// Runs wrk for so many seconds.
pub fn ask(namespace: &Namespace, server: SocketAddr, seconds: u64) -> Asked {
    let binary = find("wrk").expect("wrk is installed (Debian: apt-get install wrk)");
    let output = namespace.run(|| {
        Command::new(binary)
            .args(["-t2", "-c32", "-H", "Connection: close"])
            .arg(format!("-d{seconds}s"))
            .arg(format!("http://{server}/"))
            .output()
            .expect("run wrk")
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "wrk: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let requests = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in"))
        .and_then(|(count, _)| count.parse().ok());
    Asked {
        requests: requests.unwrap_or_else(|| panic!("wrk tells no requests: {said}")),
        errors: said
            .lines()
            .find(|line| line.contains("Socket errors"))
            .map(|line| line.trim().to_owned()),
    }
}

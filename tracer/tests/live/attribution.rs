//! Who did it: processes, threads, control groups and containers, held against who did.
//!
//! The processes are this test binary once more, told by its environment to play a part in
//! [`plays_the_part_that_it_is_given`].

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::drivers::{Route, read_to_end};
use crate::gate;
use crate::namespace::Namespace;
use crate::ndjson::{Endpoint, Process, Record};
use crate::tracer::{BINARY, SOON, Tracer, netns};
use crate::witness::{Witness, assert_lacks_at_most};

/// What a child is to do.
const PART: &str = "TRACER_TEST_PART";
/// Processes of the crowd, threads of each at either end, and connections of each.
const PROCESSES: u16 = 4;
const THREADS: u16 = 4;
const EACH: usize = 625;
const FIRST_PORT: u16 = 31_000;
/// Control codes, quotes, a broken line, half a character: as long as a name can be.
const EVIL: &[u8; 15] = b"\x1b[2J\"\\\n\r\t\x07\xff\xc3<b>";

/// A process of ours in a namespace.
struct Actor {
    child: Child,
    /// What it says on stderr.
    said: BufReader<ChildStderr>,
    /// Its threads' numbers by their names.
    threads: HashMap<String, u32>,
}

impl Actor {
    /// Starts one and waits until it is ready to be told to go on.
    fn prepared(namespace: &Namespace, part: &str) -> Self {
        let binary = std::env::current_exe().expect("this test binary");
        let mut child = namespace.run(|| {
            Command::new(binary)
                .args(["--exact", "attribution::plays_the_part_that_it_is_given"])
                .args(["--nocapture", "--test-threads", "1"])
                .env(PART, part)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start this test binary once more")
        });
        let said = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut actor = Self {
            child,
            said,
            threads: HashMap::new(),
        };
        actor.hear("ready");
        actor
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads to this line, taking in the threads that are told.
    fn hear(&mut self, wanted: &str) {
        let mut heard = String::new();
        loop {
            let begun = heard.len();
            let length = self.said.read_line(&mut heard).expect("it writes text");
            let line = heard[begun..].trim();
            assert!(length > 0, "it ended before it was {wanted}: {heard}");
            if line == wanted {
                return;
            }
            self.take_in(line);
        }
    }

    /// A line may tell a thread.
    fn take_in(&mut self, line: &str) {
        if let ["thread", name, tid] = line.split(' ').collect::<Vec<_>>()[..] {
            let tid = tid.parse().expect("a thread's number");
            self.threads.insert(name.to_owned(), tid);
        }
    }

    /// Lets it go on.
    fn go(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(b"go\n").expect("let it go on");
    }

    /// Waits for its end: the threads that it had.
    fn end(mut self) -> HashMap<String, u32> {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        let _ = self.said.read_to_string(&mut rest);
        let status = self.child.wait().expect("wait for it");
        assert!(status.success(), "{status}: {rest}");
        rest.lines().for_each(|line| self.take_in(line));
        std::mem::take(&mut self.threads)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test where nobody has given it a part.
#[test]
fn plays_the_part_that_it_is_given() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let words: Vec<&str> = part.split(' ').collect();
    let port = |word: &str| word.parse::<u16>().expect("a port");
    match words[..] {
        ["crowd", number] => crowd(port(number)),
        ["connect", server] => {
            wait_for_go();
            connect(port(server));
        }
        ["evil", server] => {
            wait_for_go();
            // SAFETY: the name ends with a NUL.
            let named = unsafe { libc::prctl(libc::PR_SET_NAME, c_name(EVIL).as_ptr()) };
            assert_eq!(named, 0);
            fs::write("/proc/self/comm", EVIL).expect("name the process");
            connect(port(server));
        }
        ["hold", first] => hold(port(first)),
        _ => panic!("no such part: {part}"),
    }
}

fn c_name(name: &[u8; 15]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..15].copy_from_slice(name);
    padded
}

fn wait_for_go() {
    eprintln!("ready");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).expect("read stdin");
    assert_ne!(read, 0, "nobody lets it go on");
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Connects, closes, and that is all.
fn connect(port: u16) {
    drop(TcpStream::connect(address(port)).expect("connect"));
}

fn port_of(process: u16, thread: u16) -> u16 {
    FIRST_PORT + process * 10 + thread
}

fn thread_number() -> u32 {
    rustix::thread::gettid().as_raw_pid().unsigned_abs()
}

/// Each thread's clients go to a port of their own, where a thread of the next process listens.
fn crowd(number: u16) {
    fs::write("/proc/self/comm", format!("crowd-{number}")).expect("name the process");
    thread::scope(|scope| {
        let (listening, all_listen) = std::sync::mpsc::channel();
        for thread in 0..THREADS {
            let listening = listening.clone();
            let serve = move || {
                let before = (number + PROCESSES - 1) % PROCESSES;
                let listener = TcpListener::bind(address(port_of(before, thread))).expect("listen");
                eprintln!("thread s{number}-{thread} {}", thread_number());
                listening.send(()).expect("tell it");
                for turn in 0..EACH {
                    let (mut stream, _) = listener.accept().expect("accept");
                    if turn % 2 == 0 {
                        let read = stream.read(&mut [0]).expect("read the end");
                        assert_eq!(read, 0);
                    }
                }
            };
            let name = format!("s{number}-{thread}");
            let builder = thread::Builder::new().name(name);
            builder.spawn_scoped(scope, serve).expect("start a thread");
        }
        for _ in 0..THREADS {
            all_listen.recv().expect("it listens");
        }
        wait_for_go();
        for thread in 0..THREADS {
            let ask = move || {
                eprintln!("thread c{number}-{thread} {}", thread_number());
                for turn in 0..EACH {
                    let mut stream =
                        TcpStream::connect(address(port_of(number, thread))).expect("connect");
                    if turn % 2 == 1 {
                        let read = stream.read(&mut [0]).expect("read the end");
                        assert_eq!(read, 0);
                    }
                }
            };
            let name = format!("c{number}-{thread}");
            let builder = thread::Builder::new().name(name);
            builder.spawn_scoped(scope, ask).expect("start a thread");
        }
    });
}

/// Listens and holds both ends of a connection; lets them go, then answers once more.
fn hold(first: u16) {
    let listener = TcpListener::bind(address(first)).expect("listen");
    let client = TcpStream::connect(address(first)).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    wait_for_go();
    drop(client);
    drop(server);
    let (mut late, _) = listener.accept().expect("accept");
    let _ = late.read(&mut [0]);
}

/// Who a record should name.
struct Truth {
    pid: u32,
    tid: u32,
    comm: String,
    name: String,
}

impl Truth {
    fn is(&self, process: &Process) -> bool {
        process.pid == Some(self.pid)
            && process.tid == Some(self.tid)
            && process.comm.as_ref() == Some(&self.comm)
            && process.name.as_ref() == Some(&self.name)
    }
}

#[test]
fn ten_thousand_connections_of_a_crowd_are_each_put_down_to_who_made_them() {
    gate::alone(|| {
        let lone = Namespace::new();
        let threads =
            (0..PROCESSES).flat_map(|number| (0..THREADS).map(move |thread| (number, thread)));
        let ports: Vec<u16> = threads
            .map(|(number, thread)| port_of(number, thread))
            .collect();
        let witness = Witness::of_ports(&ports);
        let tracer = Tracer::watch_load(&netns(&lone));
        let mut actors: Vec<Actor> = (0..PROCESSES)
            .map(|number| Actor::prepared(&lone, &format!("crowd {number}")))
            .collect();
        actors.iter_mut().for_each(Actor::go);
        let mut truths = HashMap::new();
        for (number, actor) in (0..PROCESSES).zip(actors) {
            let pid = actor.pid();
            for (comm, tid) in actor.end() {
                let truth = Truth {
                    pid,
                    tid,
                    comm: comm.clone(),
                    name: format!("crowd-{number}"),
                };
                truths.insert(comm, truth);
            }
        }
        tracer.wait_for_calm(Duration::from_millis(500));
        let finished = tracer.stop();
        finished.assert_no_loss();
        let hidden = witness.hidden();
        let (mut clients, mut exact, mut servers) = (0, 0, 0);
        for record in finished.lines.verdicts() {
            // By port, since a role may be hidden.
            let (role, (number, thread)) = match [record.local, record.peer].map(crowd_port) {
                [Some((before, thread)), _] => ('s', ((before + 1) % PROCESSES, thread)),
                [None, Some(client)] => ('c', client),
                [None, None] => panic!("none of the crowd's: {record:#?}"),
            };
            if record.role == "listener" {
                continue;
            }
            let truth = &truths[&format!("{role}{number}-{thread}")];
            let processes = record.process.as_ref().expect("processes are told");
            let (opener, closer) = (&processes.opener, &processes.closer);
            let may_lack = hidden.is_about(record.local, record.peer);
            let of_role = if role == 's' { "inherited" } else { "exact" };
            for (process, source) in [(opener, of_role), (closer, "exact")] {
                let is_known = truth.is(process) && process.source == source;
                let is_nobody = process.pid.is_none() && process.source == "unknown";
                assert!(is_known || is_nobody && may_lack, "{record:#?}");
            }
            clients += i64::from(role == 'c');
            servers += i64::from(role == 's');
            exact += i64::from(role == 'c' && opener.source == "exact");
        }
        println!("{clients} clients, {exact} openers exact; {servers} servers; nobody wrong");
        let made = i64::from(PROCESSES * THREADS) * EACH as i64;
        assert_lacks_at_most("clients", clients, made, hidden.transitions);
        assert_lacks_at_most("servers", servers, made, hidden.transitions);
        assert!(exact * 1_000 >= made * 999, "{exact} of {made}");
    });
}

/// Which process's and which thread's clients go to this port.
fn crowd_port(end: Endpoint) -> Option<(u16, u16)> {
    let number = end.port?.checked_sub(FIRST_PORT)?;
    let of = (number / 10, number % 10);
    (of.0 < PROCESSES && of.1 < THREADS).then_some(of)
}

/// A control group of the test's own.
struct Cgroup {
    directory: PathBuf,
    path: String,
}

impl Cgroup {
    /// `None`: the unified hierarchy is not mounted.
    fn make(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let point = mount.split(' ').nth(4)?;
        let root = mount.split(' ').nth(3)?.trim_end_matches('/');
        let directory = PathBuf::from(point).join(name);
        fs::create_dir(&directory).expect("make a control group");
        Some(Self {
            directory,
            path: format!("{root}/{name}"),
        })
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).expect("move a process");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

#[test]
fn a_sockets_control_group_and_container_are_named_and_can_be_asked_for() {
    gate::quiet(|| {
        let id = format!("{:064x}", std::process::id());
        let Some(cgroup) = Cgroup::make(&format!("docker-{id}.scope")) else {
            println!("no cgroup2 is mounted");
            return;
        };
        let lone = Namespace::new();
        let server = Route::loopback(&lone).listen(31_101);
        let all = Tracer::watch(&netns(&lone));
        let of_it = Tracer::watch(&format!("{} --cgroup {}", netns(&lone), cgroup.path));
        let mut actor = Actor::prepared(&lone, "connect 31101");
        cgroup.take_in(actor.pid());
        actor.go();
        read_to_end(server.listener.accept().expect("accept").0);
        actor.end();

        let client = |record: &&Record| record.role == "client";
        let record = of_it.wait_for("the client's close", SOON, |lines| {
            lines.verdicts().find(client).cloned()
        });
        assert_eq!(record.cgroup.as_ref(), Some(&cgroup.path));
        assert_eq!(record.unit, Some(format!("docker-{id}.scope")));
        let container = record.container.expect("it is a container's");
        assert_eq!((container.id, container.pod_uid), (id.clone(), None));
        assert_eq!(container.runtime.as_deref(), Some("docker"));
        all.wait_for("both ends", SOON, |lines| {
            (lines.verdicts().count() >= 2).then_some(())
        });
        let (all, of_it) = (all.stop(), of_it.stop());
        assert_eq!(
            of_it.lines.verdicts().count(),
            1,
            "the other end is not its"
        );
        let mut others = all
            .lines
            .verdicts()
            .filter(|record| record.role == "server");
        let other = others.next().expect("the other end is there");
        assert_ne!(other.cgroup.as_ref(), Some(&cgroup.path));
    });
}

#[test]
fn a_name_of_control_codes_harms_no_output() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let server = Route::loopback(&lone).listen(31_111);
        let json = Tracer::watch(&netns(&lone));
        let mut table = Command::new(BINARY)
            .args(["watch", "--netns", &lone.inode.to_string()])
            // Should the test die, it does not live on for long.
            .args(["--duration", "60s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a second tracer");
        let mut shown = BufReader::new(table.stdout.take().expect("it is piped"));
        let mut first = Vec::new();
        shown.read_until(b'\n', &mut first).expect("the header");
        for part in ["connect 31111", "evil 31111"] {
            let mut actor = Actor::prepared(&lone, part);
            actor.go();
            read_to_end(server.listener.accept().expect("accept").0);
            actor.end();
        }
        let lossy = String::from_utf8_lossy(EVIL);
        let record = json.wait_for("the close of the evil one", SOON, |lines| {
            let mut clients = lines.verdicts().filter(|record| record.role == "client");
            clients.nth(1).cloned()
        });
        let processes = record.process.expect("processes are told");
        for process in [processes.opener, processes.closer] {
            assert_eq!(process.comm.as_deref(), Some(&*lossy));
            assert_eq!(process.name.as_deref(), Some(&*lossy));
        }
        // Its end asserts that every line parses.
        json.stop();
        let tracer = rustix::process::Pid::from_child(&table);
        rustix::process::kill_process(tracer, rustix::process::Signal::INT).expect("end it");
        let mut rows = first;
        shown.read_to_end(&mut rows).expect("read the table");
        table.wait().expect("wait for it");
        let rows = String::from_utf8(rows).expect("it is text");
        println!("{rows}");
        let is_harmless = |char: char| char == '\n' || !char.is_control();
        assert!(rows.chars().all(is_harmless), "{rows:?}");
        assert_columns_hold(&rows);
    });
}

/// Two clients and two servers below the header, each row with a word for each column and the arrow.
fn assert_columns_hold(rows: &str) {
    let words = |line: &str| line.split_whitespace().count();
    let mut lines = rows.lines();
    assert_eq!(lines.next().map(words), Some(10), "the header: {rows}");
    let rows_words: Vec<usize> = lines.map(words).collect();
    assert_eq!(rows_words, [10; 4], "{rows}");
}

#[test]
fn what_was_there_before_us_is_put_down_to_who_holds_it() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let mut actor = Actor::prepared(&lone, "hold 31121");
        let tracer = Tracer::watch(&netns(&lone));
        tracer.wait_for("the inventory", SOON, |lines| {
            (!lines.inventories.is_empty()).then_some(())
        });
        let pid = actor.pid();
        actor.go();
        lone.run(|| connect(31_121));
        actor.end();
        let records = tracer.wait_for("four ends and the listener's", SOON, |lines| {
            let records: Vec<Record> = lines.verdicts().cloned().collect();
            (records.len() >= 5).then_some(records)
        });
        let (mut inferred, mut late_server) = (0, 0);
        for record in records {
            let processes = record.process.as_ref().expect("processes are told");
            let opener = &processes.opener;
            // The late client is ours.
            if record.role == "client" {
                assert_eq!(
                    (opener.pid, &*opener.source),
                    (Some(std::process::id()), "exact")
                );
                continue;
            }
            assert_eq!(
                (opener.pid, &*opener.source),
                (Some(pid), "inferred"),
                "{record:#?}"
            );
            assert_eq!((opener.tid, opener.comm.as_ref()), (None, None));
            assert!(opener.name.is_some());
            assert_eq!(
                (processes.closer.pid, &*processes.closer.source),
                (Some(pid), "exact")
            );
            inferred += 1;
            late_server += usize::from(record.role == "server");
        }
        assert_eq!((inferred, late_server), (4, 1));
        tracer.stop().assert_no_loss();
    });
}

//! An agent whose probes were taken from it says so.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::Agent;
use crate::gate;
use crate::namespace::Namespace;
use crate::tracer::SOON;

/// Numbers of the descriptors that hold its programs where they are attached.
fn links(pid: u32) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors");
    let numbers = descriptors.map(|entry| entry.expect("an entry").file_name());
    let numbers = numbers.filter_map(|name| name.to_str()?.parse().ok());
    let is_link = |number: &u64| {
        let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        text.is_ok_and(|text| text.contains("link_type:"))
    };
    numbers.filter(is_link).collect()
}

/// Closes descriptors of a process in its place, as a debugger does: a link of this kind is detached
/// in no other way while its holder lives.
#[cfg(target_arch = "x86_64")]
fn close_of(pid: u32, descriptors: &[u64]) {
    use std::ffi::c_void;
    use std::{mem, ptr};

    /// `syscall` and what fills the word: `int3`.
    const SYSCALL: u64 = 0xcccc_cccc_cccc_050f;

    let pid = pid.cast_signed();
    let ptrace = |request, address: u64, data: u64| {
        // SAFETY: the requests below write to the tracee, or to what `data` points to, which is
        // as large as the request wants.
        let result = unsafe {
            libc::ptrace(
                request,
                pid,
                ptr::without_provenance_mut::<c_void>(address as usize),
                ptr::with_exposed_provenance_mut::<c_void>(data as usize),
            )
        };
        assert!(
            result != -1 || request == libc::PTRACE_PEEKTEXT,
            "ptrace {request}"
        );
        result.cast_unsigned()
    };
    let wait = || {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert!(waited == pid && libc::WIFSTOPPED(status), "{status:#x}");
    };
    // SAFETY: registers are numbers, of which 0 is one.
    let mut before: libc::user_regs_struct = unsafe { mem::zeroed() };
    ptrace(libc::PTRACE_ATTACH, 0, 0);
    wait();
    ptrace(
        libc::PTRACE_GETREGS,
        0,
        (&raw mut before).expose_provenance() as u64,
    );
    let code = ptrace(libc::PTRACE_PEEKTEXT, before.rip, 0);
    ptrace(libc::PTRACE_POKETEXT, before.rip, SYSCALL);
    for descriptor in descriptors {
        let mut registers = before;
        registers.rax = libc::SYS_close.cast_unsigned();
        // Nothing is to be begun anew.
        registers.orig_rax = u64::MAX;
        registers.rdi = *descriptor;
        ptrace(
            libc::PTRACE_SETREGS,
            0,
            (&raw mut registers).expose_provenance() as u64,
        );
        ptrace(libc::PTRACE_SINGLESTEP, 0, 0);
        wait();
    }
    ptrace(libc::PTRACE_POKETEXT, before.rip, code);
    ptrace(
        libc::PTRACE_SETREGS,
        0,
        (&raw mut before).expose_provenance() as u64,
    );
    ptrace(libc::PTRACE_DETACH, 0, 0);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn probes_that_are_gone_make_it_unhealthy_and_are_told_as_down() {
    gate::alone(|| {
        let namespace = Namespace::new();
        let agent = Agent::start("");
        assert_eq!(agent.get("/healthz").0, 200);
        let links = links(agent.pid());
        assert!(links.len() >= 10, "{links:?}");
        close_of(agent.pid(), &links);
        let closed = Instant::now();
        let state = r#"tracer_probe_up{probe="set_state"}"#.to_owned();
        agent.wait_for_samples(|| vec![(state.clone(), 0.0..=0.0)]);
        println!("told as down after {:?}", closed.elapsed());
        let (status, health) = agent.get("/healthz");
        assert_eq!(status, 503, "{health}");
        assert!(
            health.contains("no longer attached: set_state, set_state_2"),
            "{health}"
        );
        // Nor does it see what happens.
        let refused: SocketAddr = "127.0.0.1:24105".parse().expect("an address");
        let deadline = Instant::now() + SOON;
        while !agent
            .get("/healthz")
            .1
            .contains("the probes met none of them")
        {
            assert!(Instant::now() < deadline, "{}", agent.get("/healthz").1);
            namespace.run(|| {
                for _ in 0..10 {
                    TcpStream::connect(refused).expect_err("nobody listens");
                }
            });
            thread::sleep(Duration::from_millis(200));
        }
        println!("told as blind after {:?}", closed.elapsed());
        assert!(agent.stop().0.success());
    });
}

//! Kernels that are not at hand: what is read of each, held to what another tool reads.
//!
//! `fixtures/VERSION.btf` is a kernel's own BTF, cut down. `fixtures/VERSION.expected` is made from
//! the whole of it by `fixtures/expected.py` out of what bpftool reads: neither shares a line with
//! the reader here. A kernel is added, or brought up to a new field, by
//!
//! ```console
//! $ cargo xtask vm --save-btf --kernel 6.1
//! $ bpftool btf dump --json file target/setup/vm/6.1/vmlinux.btf |
//!     python3 tracer/src/btf/fixtures/expected.py tracer-common/src/layout.rs \
//!     > tracer/src/btf/fixtures/6.1.expected
//! ```
//!
//! and a row of [`SAVED`]. The running kernel is saved by
//! `TRACER_SAVE_BTF=FILE cargo test -p tracer --lib btf::saved`.

use super::*;
use crate::btf::format::minimise::{Wanted, minimise};

const TRACEPOINTS: [&str; 7] = [
    "inet_sock_set_state",
    "kfree_skb",
    "tcp_receive_reset",
    "tcp_send_reset",
    "timer_cancel",
    "timer_expire_entry",
    "timer_start",
];
const SCHEDULE: (&str, [&str; 3]) = ("__inet_twsk_schedule", ["tw", "timeo", "rearm"]);

const SAVED: [(&str, &[u8], &str); 3] = [
    (
        "6.1",
        include_bytes!("fixtures/6.1.btf"),
        include_str!("fixtures/6.1.expected"),
    ),
    (
        "6.12",
        include_bytes!("fixtures/6.12.btf"),
        include_str!("fixtures/6.12.expected"),
    ),
    (
        "6.18",
        include_bytes!("fixtures/6.18.btf"),
        include_str!("fixtures/6.18.expected"),
    ),
];

/// What is asked of BTF beside [`Offsets::FIELDS`].
fn wanted() -> Wanted<'static> {
    let mut wanted = Wanted {
        enumerations: vec!["sock_flags"],
        tracepoints: TRACEPOINTS.to_vec(),
        functions: vec![SCHEDULE.0],
        section: ".data..percpu",
        variables: vec!["__preempt_count", "pcpu_hot", "runqueues"],
        ..Wanted::default()
    };
    let structures = &mut wanted.structures;
    for field in Offsets::FIELDS {
        let paths = structures.entry(field.structure).or_default();
        paths.push(field.path);
        paths.extend(field.others);
    }
    structures.insert("pcpu_hot", vec!["preempt_count"]);
    wanted
}

/// Everything that is read of a kernel, a line each, as the expectation has it.
fn read(kernel: &KernelBtf) -> String {
    let mut layout = kernel.layout().expect("a layout");
    let mut lines = Vec::new();
    for field in Offsets::FIELDS {
        let offset = *(field.slot)(&mut layout.offsets);
        let offset = match offset {
            ABSENT => "absent".to_owned(),
            offset => offset.to_string(),
        };
        lines.push(format!("{}.{} {offset}", field.structure, field.path));
    }
    lines.push(format!("mask tcp_sock.repair {}", layout.repair_mask));
    let timestamps = layout.timestamps_mask;
    lines.push(format!("mask tcp_sock.rx_opt.tstamp_ok {timestamps}"));
    lines.push(format!("mask sock.sk_userlocks {}", layout.port_lock_mask));
    let distance = layout.run_queue_to_preempt_count;
    lines.push(format!("runqueues to preempt_count {distance}"));
    for name in TRACEPOINTS {
        let arguments = kernel.tracepoint_arguments(name);
        let arguments = arguments.map_or("absent".to_owned(), |count| count.to_string());
        lines.push(format!("tracepoint {name} {arguments}"));
    }
    let (function, parameters) = SCHEDULE;
    let has_it = kernel.has_function(function, &parameters);
    lines.push(format!("function {function} {has_it}"));
    lines.join("\n") + "\n"
}

#[test]
fn what_is_read_of_saved_kernels_is_what_another_tool_reads() {
    for (name, file, expected) in SAVED {
        let types = Types::parse(file.to_vec()).expect("BTF");
        let read = read(&KernelBtf { types });
        let differing: Vec<_> = read
            .lines()
            .zip(expected.lines())
            .filter(|(ours, theirs)| ours != theirs)
            .collect();
        assert_eq!(differing, [], "Linux {name}: ours and theirs");
        assert_eq!(read.lines().count(), expected.lines().count());
    }
}

#[test]
fn the_running_kernel_says_the_same_when_cut_down() {
    if !Path::new(VMLINUX).exists() {
        println!("this kernel has no BTF");
        return;
    }
    let full = KernelBtf::from_file(Path::new(VMLINUX)).expect("the kernel's BTF");
    let file = minimise(&full.types, &wanted());
    let types = Types::parse(file.clone()).expect("BTF");
    assert_eq!(read(&KernelBtf { types }), read(&full));
    if let Some(to) = std::env::var_os("TRACER_SAVE_BTF") {
        std::fs::write(to, file).expect("write the file");
    }
}

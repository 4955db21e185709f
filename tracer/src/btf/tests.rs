//! Tests against the running kernel and against BTF made here.

use super::*;

/// The kernel that runs the tests tells the truth about itself; where it has no BTF, that is said
/// and nothing is held.
fn running_kernel() -> Option<KernelBtf> {
    match KernelBtf::from_file(Path::new(VMLINUX)) {
        Ok(btf) => Some(btf),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn every_required_field_of_the_running_kernel_is_found() {
    let Some(btf) = running_kernel() else { return };
    let mut layout = btf.layout().expect("the running kernel's layout");
    for field in Offsets::FIELDS.iter().filter(|field| field.required) {
        let offset = *(field.slot)(&mut layout.offsets);
        assert_ne!(offset, ABSENT, "{}.{}", field.structure, field.path);
    }
}

#[test]
fn what_the_user_interface_fixes_is_where_it_says() {
    let Some(btf) = running_kernel() else { return };
    let offsets = btf.layout().expect("the running kernel's layout").offsets;
    // struct sock_common begins with the addresses, the hash and the ports.
    assert_eq!((offsets.address_pair, offsets.port_pair), (0, 12));
    assert_eq!(offsets.family + 2, offsets.state);
}

#[test]
fn arguments_are_counted_without_the_data_pointer() {
    let Some(btf) = running_kernel() else { return };
    assert_eq!(btf.tracepoint_arguments("inet_sock_set_state"), Some(3));
    assert_eq!(btf.tracepoint_arguments("no_such_tracepoint"), None);
}

#[test]
fn a_file_that_is_no_btf_is_named_in_the_error() {
    let error = KernelBtf::from_file(Path::new("/proc/self/status"))
        .err()
        .expect("an error");
    assert!(error.to_string().contains("/proc/self/status"), "{error}");
}

/// The numbers of BTF_KIND_* as the kernel's documentation gives them.
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// The bit of `info` that says that members tell the width of bit fields.
const BIT_FIELDS: u32 = 1 << 31;

/// BTF in the making.
struct Maker {
    types: Vec<u32>,
    strings: Vec<u8>,
    last: u32,
}

impl Maker {
    fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            last: 0,
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        offset
    }

    /// Adds a type and answers its id; `info` is its count and whether it has bit fields.
    fn add(&mut self, kind: u32, name: &str, info: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.string(name);
        self.types
            .extend_from_slice(&[name, (kind << 24) | info, size_or_type]);
        self.types.extend_from_slice(rest);
        self.last += 1;
        self.last
    }

    /// A structure or union of members, each with its name, type and offset.
    fn composite(&mut self, kind: u32, name: &str, flag: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (name, type_id, offset) in members {
            rest.extend_from_slice(&[self.string(name), *type_id, *offset]);
        }
        self.add(kind, name, flag | members.len() as u32, 512, &rest)
    }

    /// A type of so many bytes.
    fn sized(&mut self, bytes: u32) -> u32 {
        let element = self.add(kind::INT, "", 0, 1, &[8]);
        match bytes {
            1 => element,
            2 | 4 => self.add(kind::INT, "", 0, bytes, &[bytes * 8]),
            8 => self.add(kind::PTR, "", 0, element, &[]),
            _ => self.add(kind::ARRAY, "", 0, 0, &[element, element, bytes]),
        }
    }

    /// The type behind a typedef and all the qualifiers.
    fn behind_names(&mut self, type_id: u32) -> u32 {
        let links = [
            (kind::TYPE_TAG, "rcu"),
            (kind::CONST, ""),
            (kind::VOLATILE, ""),
            (kind::RESTRICT, ""),
            (kind::TYPEDEF, "inner_t"),
            (kind::TYPEDEF, "outer_t"),
        ];
        links.into_iter().fold(type_id, |behind, (kind, name)| {
            self.add(kind, name, 0, behind, &[])
        })
    }

    /// The file, with a header that is longer than the one first defined.
    fn bytes(&self) -> Vec<u8> {
        let types = self.types.len() as u32 * 4;
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[1, 0]);
        for number in [32, 0, types, types, self.strings.len() as u32, 0, 0] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        for number in &self.types {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.strings);
        bytes
    }

    fn kernel(&self) -> KernelBtf {
        let types = Types::parse(self.bytes()).expect("BTF");
        KernelBtf { types }
    }
}

/// How a field is laid out, unless a test wants it otherwise.
struct Shape {
    is_present: bool,
    offset: u32,
    size: u32,
    /// Where in its byte a bit field starts.
    bit: Option<u32>,
}

const SOCKET_FLAGS: [(&str, u32); 4] = [
    ("SOCK_DEAD", 0),
    ("SOCK_DONE", 1),
    ("SOCK_KEEPOPEN", 3),
    ("SOCK_LINGER", 4),
];

/// Bytes before the anonymous union that holds all the fields of a structure.
const BEFORE: u32 = 8;
/// Bytes before the field of a structure within a structure.
const BEFORE_INNER: u32 = 4;

/// A kernel with every field that the programs read, each structure
/// `struct { u64; union { struct { fields } } }`, and with types around it that are to be passed.
fn made(change: impl Fn(&str, &mut Shape), flags: &[(&str, u32)]) -> (Maker, Offsets) {
    let mut maker = Maker::new();
    let mut offsets = Offsets::UNKNOWN;
    let int = maker.sized(4);
    maker.add(kind::FLOAT, "float", 0, 4, &[]);
    maker.add(kind::VAR, "tcp_sock", 0, int, &[1]);
    maker.add(kind::DATASEC, ".data", 1, 4, &[4, 0, 4]);
    maker.add(kind::DECL_TAG, "sock", 0, int, &[u32::MAX]);
    maker.add(kind::ENUM64, "sock_flags", 1, 8, &[0, 0, 1]);
    let mut done: Vec<&str> = Vec::new();
    for Field { structure, .. } in Offsets::FIELDS {
        if done.contains(structure) {
            continue;
        }
        done.push(structure);
        // The same name, but not the structure.
        maker.add(kind::FWD, structure, 0, 0, &[]);
        maker.add(kind::STRUCT, structure, 0, 0, &[]);
        maker.add(kind::TYPEDEF, structure, 0, int, &[]);
        let prototype = maker.add(kind::FUNC_PROTO, "", 0, 0, &[]);
        maker.add(kind::FUNC, structure, 0, prototype, &[]);

        let mut members = Vec::new();
        let mut end = 0;
        for field in Offsets::FIELDS
            .iter()
            .filter(|field| field.structure == *structure)
        {
            let mut shape = Shape {
                is_present: true,
                offset: end,
                size: field.size.max(1),
                bit: None,
            };
            match field.path {
                "repair" => shape.bit = Some(3),
                "sk_userlocks" => shape.bit = Some(4),
                _ => {}
            }
            change(&format!("{structure}.{}", field.path), &mut shape);
            if !shape.is_present {
                continue;
            }
            // A bit field may be declared of a wider type than the byte it lies in.
            let bare = maker.sized(shape.bit.map_or(shape.size, |_| 4));
            let mut type_id = maker.behind_names(bare);
            let mut offset = BEFORE + shape.offset;
            let mut name = field.path;
            if let Some((outer, inner)) = field.path.split_once('.') {
                let inner = [("", int, 0), (inner, type_id, BEFORE_INNER * 8)];
                let inner = maker.composite(kind::STRUCT, "", 0, &inner);
                type_id = maker.behind_names(inner);
                offset += BEFORE_INNER;
                name = outer;
            }
            let bits = shape.bit.map_or(0, |bit| (1 << 24) | bit);
            members.push((name, type_id, bits | (shape.offset * 8)));
            *(field.slot)(&mut offsets) = offset;
            end = shape.offset + shape.size + BEFORE_INNER;
        }
        let fields = maker.composite(kind::STRUCT, "", BIT_FIELDS, &members);
        let other = maker.composite(kind::STRUCT, "", 0, &[("other", int, 0)]);
        let union = [("", other, 0), ("", fields, 0)];
        let union = maker.composite(kind::UNION, "", 0, &union);
        let whole = [("before", int, 0), ("", union, BEFORE * 8)];
        maker.composite(kind::STRUCT, structure, 0, &whole);
    }
    let mut values = Vec::new();
    for (name, value) in flags {
        values.extend_from_slice(&[maker.string(name), *value]);
    }
    maker.add(kind::ENUM, "sock_flags", flags.len() as u32, 4, &values);
    (maker, offsets)
}

fn error(change: impl Fn(&str, &mut Shape), flags: &[(&str, u32)]) -> String {
    let (maker, _) = made(change, flags);
    let error = maker.kernel().layout().expect_err("an error");
    error.to_string()
}

#[test]
fn fields_are_found_through_anonymous_members_and_chains_of_names() {
    let (maker, offsets) = made(|_, _| {}, &SOCKET_FLAGS);
    let expected = Layout {
        offsets,
        repair_mask: 1 << 3,
        timestamps_mask: 1,
        port_lock_mask: 8 << 4,
        run_queue_to_preempt_count: 0,
    };
    assert_eq!(maker.kernel().layout().expect("a layout"), expected);
}

#[test]
fn an_optional_field_may_be_absent() {
    let entered = "inet_timewait_sock.tw_entry_stamp";
    let (maker, offsets) = made(
        |field, shape| shape.is_present = field != entered,
        &SOCKET_FLAGS,
    );
    assert_eq!(offsets.tw_entry_stamp, ABSENT);
    let layout = maker.kernel().layout().expect("a layout");
    assert_eq!(layout.offsets, offsets);
}

#[test]
fn a_field_that_was_renamed_is_found_by_its_other_name() {
    let (mut maker, _) = made(
        |field, shape| shape.is_present = field != "net.ns.count",
        &SOCKET_FLAGS,
    );
    let before = maker.kernel().layout().expect("a layout").offsets;
    assert_eq!(before.net_count, ABSENT);
    let int = maker.sized(4);
    let renamed = maker.composite(kind::STRUCT, "ns_common", 0, &[("__ns_ref", int, 96)]);
    let net = maker.composite(kind::STRUCT, "net", 0, &[("ns", renamed, 64)]);
    let kernel = maker.kernel();
    let net = kernel.types.resolve(net).expect("the structure");
    let field = Offsets::FIELDS
        .iter()
        .find(|field| field.path == "ns.count")
        .expect("the field");
    let place = kernel.place(net, field).expect("a place");
    assert_eq!(place.bits, 64 + 96);
}

#[test]
fn an_absent_field_is_refused() {
    for absent in ["sock.sk_lock.owned", "tcp_sock.repair", "task_struct.comm"] {
        assert_eq!(
            error(
                |field, shape| shape.is_present = field != absent,
                &SOCKET_FLAGS
            ),
            format!("the kernel's BTF has no field {absent}"),
        );
    }
}

#[test]
fn a_field_of_another_size_is_refused() {
    // An array, a pointer and a number, each behind a chain of names.
    for (changed, before, after) in [
        ("tcp_sock.rtt_min", 24, 8),
        ("sock.sk_socket", 8, 4),
        ("inet_sock.inet_sport", 2, 20),
    ] {
        let change = |field: &str, shape: &mut Shape| {
            if field == changed {
                shape.size = after;
            }
        };
        assert_eq!(
            error(change, &SOCKET_FLAGS),
            format!("the kernel's {changed} has {after} bytes, the programs load {before}"),
        );
    }
}

#[test]
fn a_field_beyond_what_is_copied_of_a_minisocket_is_refused() {
    let at = |offset: u32| {
        move |field: &str, shape: &mut Shape| match field {
            "inet_timewait_sock.tw_substate" => shape.offset = offset - BEFORE,
            // The one that follows it stays within reach.
            "inet_timewait_sock.tw_entry_stamp" => shape.offset = 0,
            _ => {}
        }
    };
    let (maker, _) = made(at(MINISOCKET_COPY - 1), &SOCKET_FLAGS);
    assert!(maker.kernel().layout().is_ok());
    assert_eq!(
        error(at(MINISOCKET_COPY), &SOCKET_FLAGS),
        "the kernel's inet_timewait_sock.tw_substate lies at 192, beyond the 192 bytes copied",
    );
}

#[test]
fn an_enumerator_of_another_value_is_refused() {
    let mut flags = SOCKET_FLAGS;
    flags[2].1 = 2;
    assert_eq!(
        error(|_, _| {}, &flags),
        "the kernel's SOCK_KEEPOPEN is Some(2), the programs assume 3",
    );
    assert_eq!(
        error(|_, _| {}, &SOCKET_FLAGS[1..]),
        "the kernel's SOCK_DEAD is None, the programs assume 0",
    );
}

#[test]
fn a_structure_that_is_absent_or_only_declared_is_refused() {
    let mut maker = Maker::new();
    let error = maker.kernel().layout().expect_err("an error");
    assert!(matches!(error, BtfError::NoStructure("sock_common")));
    maker.add(kind::STRUCT, "sock_common", 0, 0, &[]);
    let error = maker.kernel().layout().expect_err("an error");
    assert!(matches!(error, BtfError::NoStructure("sock_common")));
}

#[test]
fn a_tracepoint_is_a_typedef_of_a_pointer_to_a_prototype() {
    let mut maker = Maker::new();
    let prototype = maker.add(kind::FUNC_PROTO, "", 3, 0, &[0, 0, 0, 0, 0, 0]);
    let pointer = maker.add(kind::PTR, "", 0, prototype, &[]);
    maker.add(kind::TYPEDEF, "btf_trace_two", 0, pointer, &[]);
    maker.add(kind::TYPEDEF, "btf_trace_none", 0, prototype, &[]);
    let kernel = maker.kernel();
    assert_eq!(kernel.tracepoint_arguments("two"), Some(2));
    assert_eq!(kernel.tracepoint_arguments("none"), None);
    assert_eq!(kernel.tracepoint_arguments("tw"), None);
}

#[test]
fn a_function_is_known_by_the_names_of_its_parameters() {
    let mut maker = Maker::new();
    let parameters = ["tw", "timeo"].map(|name| [maker.string(name), 0]).concat();
    let prototype = maker.add(kind::FUNC_PROTO, "", 2, 0, &parameters);
    maker.add(kind::FUNC, "set_timer", 0, prototype, &[]);
    maker.add(kind::STRUCT, "other", 0, 0, &[]);
    let kernel = maker.kernel();
    assert!(kernel.has_function("set_timer", &["tw", "timeo"]));
    for other in [&["tw"][..], &["timeo", "tw"], &["tw", "timeo", "rearm"]] {
        assert!(!kernel.has_function("set_timer", other), "{other:?}");
    }
    assert!(!kernel.has_function("other", &[]));
}

/// The static variables of a processor, those named.
fn with_variables(maker: &mut Maker, variables: &[(&str, u32, u32)]) {
    let mut rest = Vec::new();
    for (name, type_id, offset) in variables {
        let variable = maker.add(kind::VAR, name, 0, *type_id, &[1]);
        rest.extend_from_slice(&[variable, *offset, 4]);
    }
    let count = variables.len() as u32;
    maker.add(kind::DATASEC, ".data..percpu", count, 0, &rest);
}

#[test]
fn the_count_of_contexts_is_found_from_the_run_queue() {
    let distance = |maker: &Maker| {
        let layout = maker.kernel().layout().expect("a layout");
        layout.run_queue_to_preempt_count
    };
    let (mut maker, _) = made(|_, _| {}, &SOCKET_FLAGS);
    let int = maker.sized(4);
    let variables = [("__preempt_count", int, 100), ("runqueues", int, 300)];
    with_variables(&mut maker, &variables);
    assert_eq!(distance(&maker), -200);

    // Linux 6.2 to 6.14.
    let (mut maker, _) = made(|_, _| {}, &SOCKET_FLAGS);
    let int = maker.sized(4);
    let members = [("current_task", int, 0), ("preempt_count", int, 64)];
    let hot = maker.composite(kind::STRUCT, "pcpu_hot", 0, &members);
    with_variables(
        &mut maker,
        &[("pcpu_hot", hot, 400), ("runqueues", int, 300)],
    );
    assert_eq!(distance(&maker), 108);

    // Without the way to the run queue, its distance is of no use.
    let (mut maker, _) = made(
        |field, shape| shape.is_present = field != "cfs_rq.rq",
        &SOCKET_FLAGS,
    );
    let int = maker.sized(4);
    let variables = [("__preempt_count", int, 100), ("runqueues", int, 300)];
    with_variables(&mut maker, &variables);
    assert_eq!(distance(&maker), 0);
}

#[test]
fn where_softirqs_are_counted_elsewhere_the_context_is_unknown() {
    let mut maker = Maker::new();
    let int = maker.sized(4);
    let members = [("softirq_disable_cnt", int, 0)];
    maker.composite(kind::STRUCT, "task_struct", 0, &members);
    assert!(maker.kernel().is_softirq_counted_elsewhere());
    let (maker, _) = made(|_, _| {}, &SOCKET_FLAGS);
    assert!(!maker.kernel().is_softirq_counted_elsewhere());
}

#[test]
fn types_that_hold_themselves_come_to_an_end() {
    let mut maker = Maker::new();
    // 1 names 2 and 2 names 1; 3 is an array of itself; 4 has itself for an anonymous member.
    maker.add(kind::TYPEDEF, "one", 0, 2, &[]);
    maker.add(kind::CONST, "", 0, 1, &[]);
    maker.add(kind::ARRAY, "", 0, 0, &[3, 3, 2]);
    maker.composite(kind::STRUCT, "sock", 0, &[("", 4, 0)]);
    let kernel = maker.kernel();
    assert!(kernel.types.resolve(1).is_none());
    assert_eq!(kernel.types.size(3), 0);
    let sock = kernel.structure("sock").expect("the structure");
    assert_eq!(kernel.follow(sock, "sk_err"), None);
}

#[test]
fn a_damaged_file_is_refused_wherever_it_is_cut() {
    let (maker, _) = made(|_, _| {}, &SOCKET_FLAGS);
    let bytes = maker.bytes();
    for length in 0..bytes.len() {
        assert!(Types::parse(bytes[..length].to_vec()).is_err(), "{length}");
    }
    // A type that claims one member more than the section has, and an unknown kind.
    let mut maker = Maker::new();
    maker.composite(kind::STRUCT, "sock", 1, &[]);
    assert!(matches!(
        Types::parse(maker.bytes()),
        Err(FormatError::Type(1))
    ));
    let mut maker = Maker::new();
    maker.add(20, "", 0, 0, &[]);
    assert!(matches!(
        Types::parse(maker.bytes()),
        Err(FormatError::Kind { id: 1, kind: 20 })
    ));
}

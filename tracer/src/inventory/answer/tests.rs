//! Held to messages that a kernel (6.18) has written.

use tracer_common::tcp::TcpState::{CloseWait, Established, FinWait2, Listen, SynRecv, TimeWait};

use super::*;

/// When they were written.
const WRITTEN: Timestamp = Timestamp(5_000_000_000);

/// Messages, `struct nlmsghdr` included, as hexadecimal digits.
mod recorded {
    pub const LISTEN: &str = "7c0000001400020001000000b7450000020a0000138900007f0000010000000000000000000000000000000000000000000000000000000000000000d2dc0c020000000000000000000000008000000000000000920d2302050008000000000008000f00000000000c00150001000000000000000600160052000000";
    pub const LISTEN_DUAL: &str = "840000001400020001000000b74500000a0a0000138a0000000000000000000000000000000000000000000000000000000000000000000000000000dcdc0c020000000000000000000000008000000000000000930d2302050008000000000005000b000000000008000f00000000000c00150001000000000000000600160012000000";
    pub const LISTEN_MAPPED: &str = "840000001400020001000000b74500000a0a0000138c000000000000000000000000ffff7f0000010000000000000000000000000000000000000000dbdc0c020000000000000000000000008000000000000000940d2302050008000000000005000b000000000008000f00000000000c00150001000000000000000600160012000000";
    pub const CLOSE_WAIT: &str = "7c0000001400020001000000b745000002080000138917767f0000010000000000000000000000007f00000100000000000000000000000000000000d4dc0c020000000000000000010000000000000000000000a20d2302050008000100000008000f00000000000c00150001000000000000000600160052000000";
    pub const ESTABLISHED_V6: &str = "7c0000001400020001000000b74500000a0100001772138a000000000000000000000000000000010000000000000000000000000000000100000000dddc0c020000000000000000000000000000000000000000990d2302050008000000000008000f00000000000c00150001000000000000000600160012000000";
    pub const ESTABLISHED_MAPPED: &str = "7c0000001400020001000000b74500000a010000138a177300000000000000000000ffff7f00000100000000000000000000ffff7f00000100000000dedc0c0200000000000000000000000000000000000000009c0d2302050008000000000008000f00000000000c00150001000000000000000600160012000000";
    pub const TIME_WAIT: &str = "600000001400020001000000b745000002060300177413897f0000010000000000000000000000007f00000100000000000000000000000000000000d6dc0c0200000000ece900000000000000000000000000000000000008000f0000000000";
    pub const TIME_WAIT_MAPPED: &str = "600000001400020001000000b74500000a0603001775138a00000000000000000000ffff7f00000100000000000000000000ffff7f00000100000000e0dc0c0200000000ece900000000000000000000000000000000000008000f0000000000";
    pub const FIN_WAIT2_MINISOCKET: &str = "600000001400020001000000b745000002050300177613897f0000010000000000000000000000007f00000100000000000000000000000000000000d7dc0c0200000000f0e900000000000000000000000000000000000008000f0000000000";
    pub const FIN_WAIT2: &str = "7c0000001400020001000000b745000002050000177713897f0000010000000000000000000000007f00000100000000000000000000000000000000d8dc0c020000000000000000000000000000000000000000a30d2302050008000200000008000f00000000000c00150001000000000000000600160052000000";
    /// Not accepted, by TCP Fast Open.
    pub const SYN_RECV: &str = "7c00000014000200010000004249000002030100138b1b5a0a0909010000000000000000000000000a08080900000000000000000000000000000000fddc0c02000000007403000001000000000000000000000000000000050008000000000008000f00000000000c00150001000000000000000600160052000000";
    pub const REQUEST: &str = "6000000014000200010000004249000002030100138b1b590a0909010000000000000000000000000a08080900000000000000000000000000000000fadc0c0200000000740300000000000000000000000000000000000008000f0000000000";
    pub const DONE: &str = "140000000300020001000000b745000000000000";
}

fn bytes(messages: &[&str]) -> Vec<u8> {
    let digits = messages.concat();
    let pairs = digits.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn read(messages: &[&str]) -> Result<(Vec<Found>, Progress), AnswerError> {
    let mut found = Vec::new();
    let progress = read_batch(&bytes(messages), WRITTEN, &mut found)?;
    Ok((found, progress))
}

fn one(message: &str) -> Found {
    let (found, progress) = read(&[message]).unwrap();
    assert_eq!((found.len(), progress), (1, Progress::default()));
    found[0]
}

fn shown(found: &Found) -> (String, bool, Holder) {
    (found.flow.to_string(), found.socket_is_v6, found.holder)
}

/// A socket of root's: its queue, what bounds that, and the inode of its descriptor.
const fn socket(state: TcpState, (queued, limit): (u32, u32), inode: u32) -> Holder {
    Holder::Socket {
        state,
        uid: Some(0),
        inode,
        queued,
        limit,
        silent_for: None,
    }
}

const fn minisocket(substate: TcpState, left_ms: u64) -> Holder {
    Holder::Minisocket {
        substate,
        ends_at: Timestamp(WRITTEN.0 + left_ms * 1_000_000),
    }
}

#[test]
fn each_holder_is_what_the_kernel_had() {
    let v4 = |local: u16, peer: u16| format!("127.0.0.1:{local} -> 127.0.0.1:{peer}");
    let listener = |end: &str| format!("{end} -> *:*");
    for (message, flow, is_v6, holder) in [
        (
            recorded::LISTEN,
            listener("127.0.0.1:5001"),
            false,
            socket(Listen, (0, 128), 0x0223_0d92),
        ),
        (
            recorded::LISTEN_DUAL,
            listener("*:5002"),
            true,
            socket(Listen, (0, 128), 0x0223_0d93),
        ),
        (
            recorded::LISTEN_MAPPED,
            listener("127.0.0.1:5004"),
            true,
            socket(Listen, (0, 128), 0x0223_0d94),
        ),
        (
            recorded::CLOSE_WAIT,
            v4(5001, 6006),
            false,
            socket(CloseWait, (1, 0), 0x0223_0da2),
        ),
        (
            recorded::ESTABLISHED_V6,
            "[::1]:6002 -> [::1]:5002".to_owned(),
            true,
            socket(Established, (0, 0), 0x0223_0d99),
        ),
        (
            recorded::ESTABLISHED_MAPPED,
            v4(5002, 6003),
            true,
            socket(Established, (0, 0), 0x0223_0d9c),
        ),
        (
            recorded::FIN_WAIT2,
            v4(6007, 5001),
            false,
            socket(FinWait2, (0, 0), 0x0223_0da3),
        ),
        (
            recorded::TIME_WAIT,
            v4(6004, 5001),
            false,
            minisocket(TimeWait, 59_884),
        ),
        (
            recorded::TIME_WAIT_MAPPED,
            v4(6005, 5002),
            true,
            minisocket(TimeWait, 59_884),
        ),
        (
            recorded::FIN_WAIT2_MINISOCKET,
            v4(6006, 5001),
            false,
            minisocket(FinWait2, 59_888),
        ),
    ] {
        assert_eq!(shown(&one(message)), (flow, is_v6, holder));
    }
}

#[test]
fn the_peer_of_close_wait_was_heard_with_its_last_data_or_acknowledgement() {
    let silent_for = |message: &str| match one(message).holder {
        Holder::Socket { silent_for, .. } => silent_for,
        holder => panic!("a full socket: {holder:?}"),
    };
    assert_eq!(silent_for(recorded::CLOSE_WAIT), None, "it was not asked");
    // As long as Linux 3.4's struct tcp_info was at least: 2 s and 1.5 s ago.
    let info = format!("40000200{}d0070000dc050000", "00".repeat(52));
    let asked = |message: &str| message.replacen("7c", "bc", 1) + &info;
    let freshest = Some(Duration::from_millis(1_500));
    assert_eq!(silent_for(&asked(recorded::CLOSE_WAIT)), freshest);
    assert_eq!(silent_for(&asked(recorded::FIN_WAIT2)), None);
    // A shorter one does not say.
    let short = recorded::CLOSE_WAIT.replacen("7c", "84", 1) + "0800020000000000";
    assert_eq!(silent_for(&short), None);
}

#[test]
fn an_unspecified_peer_is_of_the_family_that_the_probes_give() {
    let peer = |message| one(message).flow.peer.address;
    assert_eq!(peer(recorded::LISTEN), Ipv4Addr::UNSPECIFIED);
    assert_eq!(peer(recorded::LISTEN_MAPPED), Ipv4Addr::UNSPECIFIED);
    assert_eq!(peer(recorded::LISTEN_DUAL), Ipv6Addr::UNSPECIFIED);
}

#[test]
fn request_sockets_are_left_out_and_full_ones_in_syn_recv_are_not() {
    assert_eq!(read(&[recorded::REQUEST]).unwrap().0, []);
    let full = one(recorded::SYN_RECV);
    // Nobody has accepted it: the owner that the kernel gives is nobody's word.
    let Holder::Socket {
        state, uid, queued, ..
    } = full.holder
    else {
        panic!("a full socket: {full:?}");
    };
    assert_eq!((state, uid, queued), (SynRecv, None, 1));
    assert_eq!(full.flow.to_string(), "10.9.9.1:5003 -> 10.8.8.9:7002");
}

#[test]
fn a_cookie_is_two_words_the_lower_first() {
    assert_eq!(one(recorded::TIME_WAIT).cookie, 0x020c_dcd6);
    let high = recorded::TIME_WAIT.replace("d6dc0c0200000000", "d6dc0c0201000000");
    assert_eq!(one(&high).cookie, 0x1_020c_dcd6);
}

#[test]
fn a_socket_that_is_neither_listening_nor_connected_is_left_out() {
    let bound = recorded::LISTEN.replacen("020a0000", "02070000", 1);
    let inactive = recorded::LISTEN.replacen("020a0000", "020d0000", 1);
    assert_eq!(read(&[&bound, &inactive]).unwrap().0, []);
}

#[test]
fn messages_stand_one_behind_the_other_until_the_last() {
    let batch = [
        recorded::LISTEN,
        recorded::TIME_WAIT,
        recorded::DONE,
        recorded::LISTEN,
    ];
    let (found, progress) = read(&batch).unwrap();
    assert_eq!(found.len(), 2);
    assert!(progress.has_ended && !progress.is_disturbed);
    assert!(!read(&batch[..2]).unwrap().1.has_ended);
}

#[test]
fn a_disturbed_walk_is_noticed() {
    let disturbed = recorded::DONE.replacen("03000200", "03001200", 1);
    let (_, progress) = read(&[recorded::LISTEN, &disturbed]).unwrap();
    assert!(progress.has_ended && progress.is_disturbed);
}

#[test]
fn a_refusal_says_why() {
    // NLMSG_ERROR with -ENOENT, as without the module tcp_diag; the question would follow.
    let error = "24000000020000000100000001000000feffffff4c000000140001030100000000000000";
    let said = read(&[recorded::LISTEN, error]).unwrap_err().to_string();
    assert_eq!(
        said,
        "sock_diag refuses: No such file or directory (os error 2)"
    );
    let done = recorded::DONE.replace("b745000000000000", "b7450000f4ffffff");
    let said = read(&[&done]).unwrap_err().to_string();
    assert_eq!(
        said,
        "sock_diag refuses: Cannot allocate memory (os error 12)"
    );
}

#[test]
fn an_overrun_is_no_end() {
    let overrun = recorded::DONE.replacen("03000200", "04000200", 1);
    assert!(matches!(read(&[&overrun]), Err(AnswerError::Overrun)));
}

#[test]
fn what_is_cut_off_is_an_error_and_not_a_panic() {
    for message in [recorded::TIME_WAIT, recorded::SYN_RECV, recorded::DONE] {
        let whole = bytes(&[message]);
        for length in 1..whole.len() {
            let mut found = Vec::new();
            let result = read_batch(&whole[..length], WRITTEN, &mut found);
            assert!(result.is_err(), "{length} of {message}");
        }
    }
    // Whole by its own word, but shorter than a socket's message is.
    let short = format!("14000000{}", &recorded::TIME_WAIT[8..40]);
    assert!(matches!(read(&[&short]), Err(AnswerError::Unreadable(_))));
}

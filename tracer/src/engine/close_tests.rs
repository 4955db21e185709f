use super::*;

/// A close of which nothing speaks: established, held by its process, no error, fully shut down.
fn plain(from: TcpState) -> Evidence {
    Evidence {
        from,
        facts: CloseFacts {
            shutdown: SHUTDOWN_BOTH,
            segs_out: 3,
            marks: marks::ALL_ACKED,
            ..CloseFacts::default()
        },
        facts_seen: true,
        client: true,
        local_port: true,
        timer_started: false,
        sees_timers: true,
        sees_resets: true,
        whole: true,
        whole_in_state: true,
        owned: true,
        netns_dying: false,
        reset_received: false,
        reset_sent_in_state: false,
        reset_sent_before: false,
        reset_sent_after: false,
        reset_answered: false,
    }
}

fn dead(from: TcpState) -> Evidence {
    let mut evidence = plain(from);
    evidence.facts.marks |= marks::DEAD;
    evidence
}

fn with(mut evidence: Evidence, change: impl FnOnce(&mut Evidence)) -> Evidence {
    change(&mut evidence);
    evidence
}

fn error(errno: i32) -> impl FnOnce(&mut Evidence) {
    move |evidence| evidence.facts.error = errno as u16
}

/// One piece of evidence for each rule, as KERNEL's tables give it.
fn cases() -> Vec<(&'static str, Evidence)> {
    let answered = |e: &mut Evidence| {
        e.reset_sent_after = true;
        e.reset_answered = true;
    };
    let sent_before = |e: &mut Evidence| {
        e.reset_sent_before = true;
        e.reset_sent_in_state = true;
    };
    let received = |from| with(plain(from), |e| e.reset_received = true);
    let unaccepted = |from| {
        with(plain(from), |e| {
            e.facts.marks |= marks::NO_SOCKET;
            e.facts.shutdown = 0;
        })
    };
    let at_once = with(plain(SynSent), |e| {
        e.facts.shutdown = 0;
        e.facts.segs_out = 0;
    });
    let gave_up =
        |change: fn(&mut Evidence)| with(with(plain(Established), error(libc::ETIMEDOUT)), change);
    vec![
        ("listener closed", plain(Listen)),
        ("netns exit", with(dead(LastAck), |e| e.netns_dying = true)),
        ("passive close", dead(LastAck)),
        (
            "simultaneous close",
            with(dead(Closing), |e| e.timer_started = true),
        ),
        (
            "active close",
            with(dead(FinWait2), |e| e.timer_started = true),
        ),
        (
            "simultaneous close, minisocket unseen",
            with(dead(Closing), |e| e.sees_timers = false),
        ),
        (
            "active close, minisocket unseen",
            with(dead(FinWait2), |e| e.sees_timers = false),
        ),
        ("data after close", with(received(FinWait2), answered)),
        ("refused", received(SynSent)),
        ("reset by the peer", received(Established)),
        (
            "destroyed",
            with(plain(Established), error(libc::ECONNABORTED)),
        ),
        (
            "connect timeout",
            with(plain(SynSent), error(libc::ETIMEDOUT)),
        ),
        (
            "unreachable",
            with(plain(SynSent), error(libc::ECONNREFUSED)),
        ),
        (
            "refused or unreachable",
            with(plain(SynSent), |e| {
                error(libc::ECONNREFUSED)(e);
                e.sees_resets = false;
            }),
        ),
        (
            "handshake failed",
            with(with(plain(SynRecv), error(libc::ETIMEDOUT)), |e| {
                e.client = false
            }),
        ),
        (
            "user timeout",
            gave_up(|e| {
                e.facts.user_timeout_ms = 1;
                e.facts.retransmits = 1;
            }),
        ),
        (
            "keepalive",
            gave_up(|e| {
                e.reset_sent_before = true;
                e.facts.marks |= marks::KEEP_OPEN;
                e.facts.probes_out = 9;
            }),
        ),
        ("zero window", gave_up(|e| e.facts.probes_out = 9)),
        (
            "keepalive or zero window",
            gave_up(|e| {
                e.facts.marks |= marks::KEEP_OPEN;
                e.facts.probes_out = 9;
                e.whole = false;
            }),
        ),
        ("retransmission", gave_up(|e| e.facts.retransmits = 15)),
        (
            "reset by the peer, told by the error",
            with(with(plain(Established), error(libc::ECONNRESET)), |e| {
                e.facts.shutdown = 2
            }),
        ),
        (
            "repair",
            with(plain(Established), |e| e.facts.marks |= marks::REPAIR),
        ),
        ("no port", with(at_once, |e| e.local_port = false)),
        (
            "tuple in use",
            with(at_once, |e| e.facts.marks |= marks::PORT_BOUND),
        ),
        ("connect failed at once", at_once),
        (
            "given up while connecting",
            with(plain(SynSent), |e| e.facts.shutdown = 0),
        ),
        ("handshake aborted", unaccepted(SynRecv)),
        ("unaccepted", unaccepted(CloseWait)),
        (
            "simultaneous close, no minisocket",
            with(plain(Closing), |e| e.facts.marks |= marks::DONE),
        ),
        (
            "active close, no minisocket",
            with(plain(FinWait2), |e| {
                e.facts.marks |= marks::DONE;
                e.facts.unread = 7;
            }),
        ),
        (
            "unread data",
            with(plain(Established), |e| e.facts.unread = 1),
        ),
        (
            "linger zero",
            with(plain(Established), |e| {
                e.facts.marks |= marks::LINGER | marks::LINGER_ZERO
            }),
        ),
        (
            "disconnect",
            with(plain(Established), |e| e.facts.shutdown = 0),
        ),
        (
            "linger2",
            with(dead(FinWait2), |e| {
                e.facts.linger2 = -1;
                e.reset_sent_after = true;
            }),
        ),
        (
            "data after close, at the ACK of our FIN",
            with(dead(FinWait2), answered),
        ),
        ("FIN_WAIT2 timeout", with(dead(FinWait2), sent_before)),
        (
            "orphan limit or memory",
            with(dead(FinWait1), |e| e.reset_sent_after = true),
        ),
    ]
}

#[test]
fn every_rule_is_reached_by_the_evidence_of_its_case_and_no_rule_lacks_one() {
    let cases = cases();
    for (name, evidence) in &cases {
        assert_eq!(decide(evidence).name, *name, "{evidence:?}");
    }
    let names: Vec<_> = cases.iter().map(|(name, _)| *name).collect();
    let rules: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names, rules, "one case a rule, in the decision order");
}

#[test]
fn the_verdicts_are_as_reviewed() {
    let mut table = String::new();
    for rule in RULES {
        let cause = rule.cause.map_or("-".into(), |cause| format!("{cause:?}"));
        let mut mark = match (rule.task_acts, rule.overflow, rule.minisocket_unseen) {
            (true, ..) => " task",
            (_, true, _) => " overflow",
            (.., true) => " unseen",
            _ => "",
        }
        .to_owned();
        if rule.rests_on_no_reset {
            mark.push_str(" no-reset");
        }
        table.push_str(&format!(
            "{}: {:?} {:?} {cause}{mark}\n",
            rule.name, rule.kind, rule.initiator
        ));
    }
    insta::assert_snapshot!(table, @r"
    listener closed: ListenerClosed Local - task
    netns exit: Aborted None NetnsExit no-reset
    passive close: Passive Peer Fin no-reset
    simultaneous close: Simultaneous Both Fin
    active close: Active Local Fin
    simultaneous close, minisocket unseen: Simultaneous Both Fin unseen
    active close, minisocket unseen: Active Local Fin unseen
    data after close: ResetSent Local DataAfterClose
    refused: ConnectFailed Peer Refused
    reset by the peer: ResetReceived Peer PeerReset no-reset
    destroyed: ResetSent Local Destroyed task
    connect timeout: ConnectFailed None TimedOut
    unreachable: ConnectFailed Peer Unreachable no-reset
    refused or unreachable: ConnectFailed Peer -
    handshake failed: Aborted None HandshakeAborted
    user timeout: TimedOut None UserTimeout
    keepalive: TimedOut None Keepalive
    zero window: TimedOut None ZeroWindow no-reset
    keepalive or zero window: TimedOut None -
    retransmission: TimedOut None Retransmission
    reset by the peer, told by the error: ResetReceived Peer PeerReset
    repair: Aborted None Repair
    no port: ConnectFailed Local NoPort task
    tuple in use: ConnectFailed Local TupleInUse task
    connect failed at once: ConnectFailed Local - task
    given up while connecting: ConnectFailed Local Abandoned task
    handshake aborted: Aborted None HandshakeAborted
    unaccepted: ResetSent Local Unaccepted task
    simultaneous close, no minisocket: Simultaneous Both Fin overflow no-reset
    active close, no minisocket: Active Local Fin overflow no-reset
    unread data: ResetSent Local UnreadData task
    linger zero: ResetSent Local LingerZero task
    disconnect: ResetSent Local Disconnect task
    linger2: ResetSent Local Linger2
    data after close, at the ACK of our FIN: ResetSent Local DataAfterClose
    FIN_WAIT2 timeout: TimedOut None FinWait2
    orphan limit or memory: ResetSent Local OrphanOrMemory
    ");
}

#[test]
fn a_lost_record_before_close_forbids_to_claim_an_overflow() {
    let evidence = with(dead(FinWait2), |e| e.whole_in_state = false);
    assert_eq!(decide(&evidence).kind, Kind::Unknown);
}

#[test]
fn what_was_lost_after_tcp_reset_may_have_been_our_own_rst() {
    let lossy = |from, shutdown| {
        with(plain(from), |e| {
            e.reset_received = true;
            e.facts.error = libc::ECONNRESET as u16;
            e.facts.shutdown = shutdown;
            e.whole = false;
        })
    };
    assert_eq!(decide(&lossy(Established, 0)).cause, Some(Cause::PeerReset));
    assert_eq!(decide(&lossy(FinWait1, 3)).kind, Kind::Unknown);
}

#[test]
fn last_ack_and_closing_that_end_before_our_fin_is_acknowledged_were_given_up() {
    let unacked = |from, more: u16| with(plain(from), |e| e.facts.marks = more);
    for from in [LastAck, Closing] {
        assert_eq!(decide(&unacked(from, 0)).cause, Some(Cause::Disconnect));
        let lingering = marks::LINGER | marks::LINGER_ZERO;
        assert_eq!(
            decide(&unacked(from, lingering)).cause,
            Some(Cause::LingerZero)
        );
    }
}

#[test]
fn an_icmp_error_that_nobody_fetched_ends_no_established_connection() {
    let unread = with(plain(Established), |e| {
        error(libc::EHOSTUNREACH)(e);
        e.facts.unread = 1;
    });
    assert_eq!(decide(&unread).cause, Some(Cause::UnreadData));
    let passive = with(dead(LastAck), error(libc::EHOSTUNREACH));
    assert_eq!(decide(&passive).kind, Kind::Passive);
    // As a timer's, it is the errno of a time-out.
    let ran_out = with(plain(Established), |e| {
        error(libc::EHOSTUNREACH)(e);
        e.facts.soft_error = e.facts.error;
        e.facts.retransmits = 3;
    });
    assert_eq!(decide(&ran_out).cause, Some(Cause::Retransmission));
}

#[test]
fn a_timers_error_that_another_thread_fetched_makes_no_disconnect() {
    for from in [SynSent, Established] {
        let evidence = with(plain(from), |e| {
            e.owned = false;
            e.facts.shutdown = 0;
        });
        assert_eq!(decide(&evidence).kind, Kind::Unknown, "{from:?}");
    }
}

#[test]
fn a_minisocket_whose_full_socket_was_lost_before_fin_wait2_may_come_from_closing() {
    let evidence = with(dead(FinWait1), |e| {
        e.timer_started = true;
        e.facts_seen = false;
    });
    assert_eq!(decide(&evidence).kind, Kind::Unknown);
}

#[test]
fn an_rst_elsewhere_in_fin_wait2_forbids_to_claim_an_overflow() {
    let evidence = with(dead(FinWait2), |e| e.reset_sent_in_state = true);
    assert_eq!(decide(&evidence).kind, Kind::Unknown);
}

#[test]
fn a_reset_error_on_a_socket_that_no_longer_receives_is_not_told_without_its_event() {
    let evidence = with(dead(FinWait2), error(libc::ECONNRESET));
    assert_eq!(decide(&evidence).kind, Kind::Unknown);
}

#[test]
fn an_orphan_without_an_rst_may_be_memory_or_a_dying_netns_and_stays_unknown() {
    assert_eq!(decide(&dead(FinWait1)).kind, Kind::Unknown);
}

#[test]
fn last_ack_that_ends_with_an_rst_is_no_passive_close() {
    let evidence = with(dead(LastAck), |e| e.reset_sent_after = true);
    assert_eq!(decide(&evidence).cause, Some(Cause::OrphanOrMemory));
}

#[test]
fn unread_data_is_told_before_linger_as_the_kernel_checks() {
    let evidence = with(plain(Established), |e| {
        e.facts.unread = 1;
        e.facts.marks |= marks::LINGER | marks::LINGER_ZERO;
    });
    assert_eq!(decide(&evidence).cause, Some(Cause::UnreadData));
}

#[test]
fn half_close_is_told_only_of_an_orderly_close_whose_facts_were_seen() {
    let held = with(plain(FinWait2), |e| e.timer_started = true);
    assert!(is_half_close(&held, decide(&held)));
    let unseen = with(held, |e| e.facts_seen = false);
    assert!(!is_half_close(&unseen, decide(&unseen)));
    let orphan = with(dead(FinWait2), |e| e.timer_started = true);
    assert!(!is_half_close(&orphan, decide(&orphan)));
}

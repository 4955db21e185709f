//! Which script proves which rule of the engine. A verdict's rule that nobody has seen at work on
//! a kernel is a guess: a row of `RULES` in `engine/close.rs` without one here fails.

use std::collections::BTreeSet;

use crate::scripts;

/// What shows a rule at work.
enum Proof {
    /// Scripts here.
    Scripts(&'static [&'static str]),
    /// No peer can bring it about: a test that says so elsewhere.
    Elsewhere(&'static str),
}
use Proof::{Elsewhere, Scripts};

#[rustfmt::skip]
const PROOFS: &[(&str, Proof)] = &[
    ("listener closed", Scripts(&["a_listener_that_closes_resets_whom_nobody_accepted"])),
    ("netns exit", Elsewhere("scenarios: sockets of processes hold their namespace, so that only a kernel module's can be in one that goes")),
    ("passive close", Scripts(&["the_peer_closes_first_and_the_last_ack_ends_it"])),
    ("simultaneous close", Scripts(&[
        "our_fin_and_the_peers_cross_and_lead_through_closing_into_time_wait",
        "fins_cross_while_the_socket_is_held",
    ])),
    ("active close", Scripts(&[
        "the_peers_fin_comes_after_our_close_and_flips_the_minisocket",
        "the_peers_fin_acknowledges_ours_and_leads_straight_into_time_wait",
        "a_half_closed_socket_is_held_open_until_the_peers_fin",
    ])),
    ("simultaneous close, minisocket unseen", Elsewhere("close_tests: the timers' probe is missing")),
    ("active close, minisocket unseen", Elsewhere("live: degraded")),
    ("data after close", Scripts(&[
        "data_after_close_resets_in_fin_wait1",
        "data_after_close_resets_in_the_orphans_full_fin_wait2",
        "data_after_shutdown_of_both_directions_resets_in_the_full_sockets_fin_wait2",
    ])),
    ("refused", Scripts(&["an_rst_answers_our_syn"])),
    ("reset by the peer", Scripts(&[
        "an_rst_ends_a_simultaneous_open",
        "an_rst_ends_an_established_connection",
        "an_rst_ends_fin_wait1",
        "an_rst_ends_the_full_sockets_fin_wait2",
        "an_rst_ends_closing",
        "an_rst_ends_close_wait",
        "an_rst_ends_last_ack",
        "an_rst_ends_a_fast_open_child_before_its_handshake_is_over",
    ])),
    ("destroyed", Scripts(&[
        "an_administrator_destroys_an_established_connection",
        "an_administrator_destroys_a_connection_that_is_opening",
    ])),
    ("connect timeout", Scripts(&[
        "a_syn_that_nobody_answers_times_out",
        "a_simultaneous_open_that_nobody_acknowledges_times_out",
    ])),
    ("unreachable", Scripts(&[
        "an_unreachable_port_fails_a_connect_by_icmp",
        "an_unreachable_host_fails_a_connect_by_icmp",
        "an_unreachable_port_ends_a_simultaneous_open_by_icmp",
    ])),
    ("refused or unreachable", Elsewhere("close_tests: the resets' probes are missing, or records were lost")),
    ("handshake failed", Scripts(&["a_fast_open_child_that_nobody_acknowledges_is_given_up"])),
    ("user timeout", Scripts(&[
        "the_user_timeout_ends_retransmissions",
        "the_user_timeout_ends_window_probes",
        "the_user_timeout_ends_keepalive_probes",
    ])),
    ("keepalive", Scripts(&["keepalive_probes_that_nobody_answers_end_the_connection"])),
    ("zero window", Scripts(&["a_window_that_stays_closed_ends_the_connection"])),
    ("keepalive or zero window", Elsewhere("close_tests: the resets' probes are missing, or records were lost")),
    ("retransmission", Scripts(&[
        "retransmissions_that_nobody_acknowledges_end_the_connection",
        "an_orphans_fin_that_nobody_acknowledges_is_given_up",
        "a_last_ack_that_never_comes_is_given_up",
    ])),
    ("reset by the peer, told by the error", Elsewhere("close_tests: an event was lost")),
    ("repair", Scripts(&["a_socket_under_repair_goes_without_a_word"])),
    ("no port", Scripts(&["a_connect_that_finds_no_free_port_says_so"])),
    ("tuple in use", Scripts(&["a_connect_from_a_bound_port_whose_tuple_is_taken_says_so"])),
    ("connect failed at once", Scripts(&[
        "a_route_that_is_refused_once_the_port_is_known_fails_a_connect_at_once",
    ])),
    ("given up while connecting", Scripts(&[
        "a_socket_that_is_closed_while_connecting_is_abandoned",
        "a_socket_that_is_disconnected_while_connecting_is_abandoned",
    ])),
    ("handshake aborted", Scripts(&["a_fast_open_child_that_nobody_accepted_goes_with_its_listener"])),
    ("unaccepted", Scripts(&["a_listener_that_closes_resets_whom_nobody_accepted"])),
    ("simultaneous close, no minisocket", Scripts(&[
        "a_full_table_of_minisockets_skips_the_time_wait_of_a_held_socket_whose_fins_crossed",
        "a_full_table_of_minisockets_skips_the_time_wait_of_crossing_fins",
    ])),
    ("active close, no minisocket", Scripts(&[
        "a_full_table_of_minisockets_skips_the_time_wait_of_a_socket_that_is_held",
        "a_full_table_of_minisockets_skips_the_time_wait_of_a_socket_that_holds_data",
        "a_full_table_of_minisockets_skips_the_wait_in_fin_wait2",
    ])),
    ("unread data", Scripts(&[
        "closing_with_data_unread_resets",
        "closing_with_data_unread_resets_in_the_full_sockets_fin_wait2",
    ])),
    ("linger zero", Scripts(&["a_linger_of_zero_resets"])),
    ("disconnect", Scripts(&[
        "a_disconnect_resets",
        "a_disconnect_after_shutdown_of_both_directions_resets",
    ])),
    ("linger2", Scripts(&[
        "tcp_linger2_below_zero_resets_at_the_ack_of_our_fin",
        "tcp_linger2_below_zero_resets_at_close_in_fin_wait2",
    ])),
    ("data after close, at the ACK of our FIN", Scripts(&[
        "data_with_the_ack_of_our_fin_resets_after_close",
        "data_out_of_order_with_the_ack_of_our_fin_resets_after_close",
    ])),
    ("FIN_WAIT2 timeout", Scripts(&[
        "an_old_fin_keeps_the_orphan_in_fin_wait2_until_its_keepalive_timer_resets_it",
    ])),
    ("orphan limit or memory", Scripts(&["too_many_orphans_on_the_host_reset_one_at_close"])),
];

#[test]
fn every_rule_of_the_engine_has_been_seen_at_work() {
    let source = include_str!("../../src/engine/close.rs");
    let rules = source.split("rule(\"").skip(1);
    let rules: Vec<&str> = rules.filter_map(|rest| rest.split('"').next()).collect();
    assert!(rules.len() > 20, "the rules are found in the source");
    let known: BTreeSet<&str> = PROOFS.iter().map(|(rule, _)| *rule).collect();
    for rule in rules.iter().filter(|rule| **rule != "unknown") {
        assert!(known.contains(rule), "{rule}: which script shows it?");
    }
    let scripts: BTreeSet<String> = scripts().into_iter().map(|script| script.name).collect();
    for (rule, proof) in PROOFS {
        assert!(rules.contains(rule), "{rule} is no rule any more");
        match proof {
            Scripts(names) => {
                for name in *names {
                    assert!(
                        scripts.contains(*name),
                        "{rule}: no script is called {name}"
                    );
                }
            }
            Elsewhere(place) => println!("{rule}: {place}"),
        }
    }
}

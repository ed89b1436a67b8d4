//! Faults of cached topics.

use super::faults::check;

#[test]
fn topics() {
    check(
        r#"listeners: { a: { address: 127.0.0.1:1 } }
clusters: { a: { bootstrap.servers: x }, b: { bootstrap.servers: x } }
cache:
  directory: ""
  segment_bytes: 1
  topics:
    one: {}
    two: { cluster: c }
    "x/y": { cluster: a }
    three: { cluster: a, start: now, create: { partitions: 0, replication: 0, config: { a: {} } }, bootstrap: 1 }
"#,
        r#"4:14 this is no directory (give a path such as ./data)
5:18 '1' is out of range (from 64KiB to 32GiB)
7:5 there are several clusters; which one is meant? (add 'cluster' with one of: a, b)
8:21 there is no cluster 'c' (known clusters: a, b)
9:5 'x/y' is no name for a topic (1 to 249 of a to z, A to Z, 0 to 9, '.', '_' and '-')
10:33 expected earliest, latest, or a duration back such as 1h, found the text 'now'
10:60 expected a whole number from 1 to 10000, found the number 0
10:76 no topic has 0 replicas (-1 takes the default of the cluster)
10:92 expected a text, a number, true or false, found a map
10:111 expected true or false, found the number 1
"#,
    );
}

#[test]
fn how_topics_are_kept() {
    check(
        r#"listeners: { a: { address: 127.0.0.1:1 } }
clusters: { k: { bootstrap.servers: x }, e: { bootstrap.servers: embedded } }
cache:
  max_bytes: 1MiB
  topic_refresh: 0s
  housekeeping_interval: 15
  topics:
    a: { cluster: k, bootstrap: true, linger: 1s, start: -1h }
    b: { cluster: k, max_bytes: 1KiB, history: read_through, linger: ever }
    c: { cluster: e, max_bytes: 1GiB, history: read-through, linger: 1s }
    d: { cluster: k, max_bytes: "${NUMBER}", start: "${SECRET}" }
"#,
        r#"4:14 '1MiB' does not hold one segment (cache.segment_bytes) (give more, or make cache.segment_bytes smaller)
5:18 '0s' is out of range (give 100ms at least)
6:26 expected a duration such as 30s, found the number 15
8:39 with 'bootstrap' the topic is always fetched, so nothing lingers (leave 'linger' out, or 'bootstrap')
8:58 expected earliest, latest, or a duration back such as 1h, found the text '-1h'
9:33 '1KiB' does not hold one segment (cache.segment_bytes) (give more, or make cache.segment_bytes smaller)
9:48 expected one of gap, read-through, found the text 'read_through' (did you mean 'read-through'?)
9:70 expected a duration such as 30s, found the text 'ever'
10:22 the topic is of the embedded cluster 'e', which has no 'max_bytes' (bound it by its topic property: create: { config: { retention.bytes: ... } })
10:39 the topic is of the embedded cluster 'e', which has no 'history' (leave it out: there is no other copy to read)
10:62 the topic is of the embedded cluster 'e', which has no 'linger' (leave it out: nothing is fetched)
11:33 the value of '${NUMBER}' does not hold one segment (cache.segment_bytes) (give more, or make cache.segment_bytes smaller)
11:53 expected earliest, latest, or a duration back such as 1h, found the value of '${SECRET}'
"#,
    );
}

#[test]
fn no_cluster() {
    check(
        r#"listeners: { a: { address: 127.0.0.1:1 } }
cache: { topics: { t: {} } }
"#,
        r#"2:20 there is no cluster (declare one: clusters: { main: { bootstrap.servers: embedded } })
"#,
    );
}

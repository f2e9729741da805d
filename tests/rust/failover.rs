//! Failover, driven without Python against servers that stand still, die and come back.
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use _emcache::client::{Client, Expect, FailureKind, Nodes, Outcome, Target};
use _emcache::cluster::failover::{FailoverChange, FailoverConfig, OnOverflow};
use _emcache::cluster::routing::Routing;
use _emcache::cluster::{ClusterConfig, NodeEvent};
use _emcache::pool::{Change, LocalSetHost, PoolConfig};
use _emcache::protocol::{Command, Request};

use crate::client::{TestCaller, get, get_many, submit};
use crate::fake_server::FakeServer;
use crate::support::{config, key, run, with_set};

struct Cluster {
    client: Client<TestCaller>,
    servers: Vec<FakeServer>,
    events: Rc<RefCell<Vec<String>>>,
}

fn failover() -> FailoverConfig {
    let on_overflow = OnOverflow::Flush;
    let homes_are_given = false;
    FailoverConfig { gutter: Vec::new(), ttl: 60, max_keys: 1000, on_overflow, homes_are_given }
}

impl Cluster {
    /// Three nodes; with a gutter, a fourth server is its only node.
    async fn start(has_gutter: bool, mut failover: FailoverConfig) -> Self {
        let mut servers = Vec::new();
        for _ in 0..4 {
            servers.push(FakeServer::start().await);
        }
        if has_gutter {
            failover.gutter.push(servers[3].address());
        }
        let timeout = Some(Duration::from_millis(200));
        let config = ClusterConfig {
            pool: PoolConfig { timeout, max_connections: 1, ..config() },
            purge_unhealthy_nodes: false,
            routing: Routing::Rendezvous,
            specs: Arc::default(),
            hot_keys: 0,
            failover: Some(failover),
        };
        let addresses = servers[..3].iter().map(FakeServer::address).collect();
        let events = Rc::<RefCell<Vec<String>>>::default();
        let heard = events.clone();
        let client = Client::new(&LocalSetHost::context(), addresses, &config, move |change| {
            let event = match change.change {
                NodeEvent::Pool(Change::Healthy) => "up".to_owned(),
                NodeEvent::Pool(Change::Unhealthy(_)) => "down".to_owned(),
                NodeEvent::Pool(_) => return,
                NodeEvent::Failover(FailoverChange::Returning { outdated }) => {
                    format!("returning {outdated}")
                }
                NodeEvent::Failover(other) => format!("{other:?}"),
            };
            heard.borrow_mut().push(format!("{} {event}", change.node));
        });
        Self { client, servers, events }
    }

    /// `count` keys of the first node.
    fn keys(&self, count: usize) -> Vec<String> {
        let all = (0..).map(|number| format!("key:{number}"));
        all.filter(|name| self.client.node_for(key(name)) == Ok(0)).take(count).collect()
    }

    fn server_of(&self, name: &str) -> &FakeServer {
        &self.servers[self.client.node_for(key(name)).unwrap()]
    }

    async fn set(&self, name: &str, value: &str) -> Outcome<String> {
        let set =
            |request: &Request<'_>| submit(&self.client, Target::Key, Expect::Command, request);
        with_set(name, value.as_bytes(), set).outcome().await
    }

    async fn stored(&self, name: &str, value: &str) {
        let outcome = self.set(name, value).await;
        assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    }

    async fn deleted(&self, name: &str) {
        let request = Request::Command(Command::Delete { key: key(name) });
        let outcome = submit(&self.client, Target::Key, Expect::Command, &request).outcome().await;
        let is_done = match &outcome {
            Outcome::Done => true,
            Outcome::Failed(failure) => matches!(failure.kind, FailureKind::NotFound),
            _ => false,
        };
        assert!(is_done, "{outcome:?}");
    }

    async fn value(&self, name: &str) -> Option<String> {
        match get(&self.client, name).outcome().await {
            Outcome::Item(item) => item,
            other => panic!("{other:?}"),
        }
    }

    async fn flush(&self, node: usize) -> Outcome<String> {
        let request = Request::Command(Command::FlushAll { delay: 0 });
        submit(&self.client, Target::Node(node), Expect::Command, &request).outcome().await
    }

    /// Waits until the first node gets no keys, while requests of one of them fail.
    async fn down(&self, name: &str) {
        until(|| async {
            let _ = get(&self.client, name).outcome().await;
            self.client.health().1 == [0]
        })
        .await;
    }

    /// Waits until the first node gets keys.
    async fn up(&self) {
        until(|| async { self.client.health().1.is_empty() }).await;
    }

    async fn calm(&self) {
        until(|| async { self.client.failover_metrics().unwrap().outdated_keys == 0 }).await;
    }
}

async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn what_a_dead_node_has_not_received_goes_to_its_substitute() {
    run(async {
        for has_gutter in [false, true] {
            let cluster = Cluster::start(has_gutter, failover()).await;
            let names = cluster.keys(8);
            cluster.stored(&names[0], "old").await;
            cluster.servers[0].kill(true).await;
            // None of these fails: the connection is lost, and dials are refused.
            for (at, name) in names.iter().enumerate() {
                assert_eq!(cluster.value(name).await, None, "{at}");
                cluster.stored(name, "new").await;
                let server = cluster.server_of(name);
                let at = cluster.servers.iter().position(|s| s.address() == server.address());
                assert!(if has_gutter { at == Some(3) } else { matches!(at, Some(1 | 2)) });
                assert_eq!(server.item(name), Some(("new".to_owned(), 60)));
            }
            let mut many = match get_many(&cluster.client, &names, false).outcome().await {
                Outcome::Items(items) => items,
                other => panic!("{other:?}"),
            };
            assert_eq!(crate::client::items_of(&mut many).len(), names.len());
        }
    });
}

#[test]
fn a_node_that_returns_serves_only_what_did_not_change() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(4);
        for name in &names {
            cluster.stored(name, "old").await;
        }
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        cluster.stored(&names[0], "new").await;
        cluster.deleted(&names[1]).await;
        assert_eq!(cluster.value(&names[2]).await, None);
        cluster.servers[0].restart();
        cluster.up().await;
        assert_eq!(cluster.value(&names[2]).await.as_deref(), Some("old"));
        cluster.calm().await;
        assert_eq!(cluster.value(&names[0]).await, None);
        assert_eq!(cluster.value(&names[1]).await, None);
        assert_eq!(cluster.value(&names[3]).await.as_deref(), Some("old"));
        assert_eq!(cluster.servers[0].take_commands("delete").len(), 2);
        assert_eq!(*cluster.events.borrow(), ["0 down", "0 up", "0 returning 2"]);
    });
}

#[test]
fn a_key_stays_at_its_substitute_until_its_old_copy_is_deleted() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(2);
        cluster.stored(&names[0], "old").await;
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        cluster.stored(&names[0], "new").await;
        cluster.servers[0].refuse_deletes(Some("SERVER_ERROR later"));
        cluster.servers[0].restart();
        cluster.up().await;
        until(|| async { !cluster.servers[0].take_commands("delete").is_empty() }).await;
        assert_eq!(cluster.value(&names[0]).await.as_deref(), Some("new"));
        cluster.stored(&names[0], "newer").await;
        cluster.stored(&names[1], "elsewhere").await;
        assert_eq!(cluster.servers[0].item(&names[1]).unwrap().0, "elsewhere");
        cluster.servers[0].refuse_deletes(None);
        cluster.calm().await;
        assert_eq!(cluster.value(&names[0]).await, None);
    });
}

#[test]
fn a_later_failure_finds_no_copies_of_an_earlier_one() {
    run(async {
        for has_gutter in [false, true] {
            let cluster = Cluster::start(has_gutter, failover()).await;
            let names = cluster.keys(3);
            cluster.servers[0].kill(true).await;
            cluster.down(&names[0]).await;
            for name in &names {
                cluster.stored(name, "first").await;
            }
            cluster.servers[0].restart();
            cluster.up().await;
            cluster.calm().await;
            cluster.stored(&names[0], "second").await;
            cluster.deleted(&names[1]).await;
            cluster.calm().await;
            cluster.servers[0].kill(true).await;
            cluster.down(&names[0]).await;
            assert_eq!(cluster.value(&names[0]).await, None);
            assert_eq!(cluster.value(&names[1]).await, None);
            assert_eq!(cluster.value(&names[2]).await.as_deref(), Some("first"));
        }
    });
}

#[test]
fn a_copy_is_outdated_too_if_its_substitute_went_down() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(20);
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        let at = |name: &str| cluster.client.node_for(key(name)).unwrap();
        let name = names.iter().find(|name| at(name) == 1).unwrap();
        cluster.stored(name, "first").await;
        cluster.servers[1].kill(true).await;
        until(|| async {
            let _ = get(&cluster.client, name).outcome().await;
            cluster.client.health().1.len() == 2
        })
        .await;
        cluster.stored(name, "second").await;
        assert_eq!(cluster.servers[2].item(name).unwrap().0, "second");
        cluster.servers[1].restart();
        until(|| async { cluster.client.health().1 == [0] }).await;
        until(|| async { at(name) == 1 }).await;
        assert_eq!(cluster.value(name).await, None);
        assert_eq!(cluster.servers[1].item(name), None);
    });
}

#[test]
fn a_write_that_failed_is_deleted_even_if_it_is_executed_late() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(3);
        cluster.stored(&names[0], "old").await;
        cluster.servers[0].stop();
        let failed = cluster.set(&names[0], "late").await;
        assert!(matches!(failed, Outcome::Failed(_)));
        cluster.down(&names[0]).await;
        cluster.servers[0].resume();
        cluster.up().await;
        cluster.calm().await;
        let sets = cluster.servers[0].take_commands("set");
        assert_eq!(sets.len(), 2, "the server executed the late write: {sets:?}");
        assert_eq!(cluster.value(&names[0]).await, None);
    });
}

#[test]
fn with_too_many_outdated_keys_the_node_is_flushed() {
    run(async {
        let cluster = Cluster::start(false, FailoverConfig { max_keys: 2, ..failover() }).await;
        let names = cluster.keys(4);
        cluster.stored(&names[3], "old").await;
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        for name in &names[..3] {
            cluster.stored(name, "new").await;
        }
        cluster.servers[0].restart();
        cluster.up().await;
        assert_eq!(cluster.value(&names[3]).await, None);
        assert_eq!(cluster.servers[0].take_commands("flush_all").len(), 1);
        let events = ["0 down", "0 Overflowed { limit: 2 }", "0 Flushed", "0 up"];
        assert_eq!(*cluster.events.borrow(), events);
        assert_eq!(cluster.client.failover_metrics().unwrap().flushes, 1);
    });
}

#[test]
fn a_node_that_is_kept_out_returns_once_its_user_flushes_it() {
    run(async {
        let on_overflow = OnOverflow::KeepOut;
        let config = FailoverConfig { max_keys: 1, on_overflow, ..failover() };
        let cluster = Cluster::start(false, config).await;
        let names = cluster.keys(2);
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        for name in &names {
            cluster.stored(name, "new").await;
        }
        cluster.servers[0].put(&names[0], "old");
        cluster.servers[0].restart();
        until(|| async { cluster.events.borrow().last().unwrap() == "0 KeptOut" }).await;
        assert_eq!(cluster.value(&names[0]).await.as_deref(), Some("new"));
        assert!(matches!(cluster.flush(0).await, Outcome::Done));
        cluster.up().await;
        assert_eq!(cluster.value(&names[0]).await, None);
    });
}

#[test]
fn a_flush_that_a_dead_node_missed_is_made_up_for() {
    run(async {
        let cluster = Cluster::start(true, failover()).await;
        let names = cluster.keys(2);
        cluster.stored(&names[0], "old").await;
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        cluster.stored(&names[1], "new").await;
        assert!(matches!(cluster.flush(0).await, Outcome::Failed(_)));
        // The gutter's copies of the node's keys are gone as well.
        until(|| async { cluster.servers[3].item(&names[1]).is_none() }).await;
        cluster.servers[0].restart();
        cluster.up().await;
        assert_eq!(cluster.value(&names[0]).await, None);
    });
}

#[test]
fn what_concerns_a_dead_node_goes_to_no_other() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names: Vec<_> = (0..60).map(|number| format!("key:{number}")).collect();
        let at = |name: &str| cluster.client.node_for(key(name)).unwrap();
        let kept: Vec<_> = names.iter().filter(|name| at(name) != 1).collect();
        for name in &kept {
            cluster.stored(name, "kept").await;
        }
        cluster.servers[1].kill(true).await;
        until(|| async {
            let request = Request::Command(Command::FlushAll { delay: 0 });
            let send = |_| submit(&cluster.client, Target::Node(1), Expect::Command, &request);
            let flushes: Vec<_> = (0..8).map(send).collect();
            for flush in flushes {
                let outcome = flush.outcome().await;
                let is_failed = matches!(&outcome, Outcome::Failed(failure)
                    if matches!(failure.kind, FailureKind::Pool(_)));
                assert!(is_failed, "{outcome:?}");
            }
            cluster.client.health().1 == [1]
        })
        .await;
        for name in kept {
            assert_eq!(cluster.value(name).await.as_deref(), Some("kept"), "{name}");
        }
    });
}

#[test]
fn an_old_copy_is_deleted_at_its_own_node() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(20);
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        let at = |name: &str| cluster.client.node_for(key(name)).unwrap();
        let name = names.iter().find(|name| at(name) == 1).unwrap();
        cluster.stored(name, "first").await;
        cluster.servers[0].restart();
        cluster.up().await;
        until(|| async { at(name) == 0 }).await;
        cluster.servers[1].kill(true).await;
        // The delete of the copy finds out that its node is down.
        cluster.stored(name, "second").await;
        until(|| async { cluster.client.health().1 == [1] }).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(cluster.value(name).await.as_deref(), Some("second"));
        cluster.servers[1].restart();
        cluster.up().await;
        cluster.calm().await;
        assert_eq!(cluster.servers[1].item(name), None);
        assert_eq!(cluster.value(name).await.as_deref(), Some("second"));
    });
}

#[test]
fn a_node_that_can_be_reached_but_is_out_serves_no_outdated_copy() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(2);
        for name in &names {
            cluster.stored(name, "old").await;
        }
        for count in 1..=3 {
            if let Ok(node) = cluster.client.node_for(key(&names[0])) {
                cluster.servers[node].kill(true).await;
            }
            until(|| async {
                let _ = get(&cluster.client, &names[0]).outcome().await;
                cluster.client.health().1.len() == count
            })
            .await;
            if count < 3 {
                cluster.stored(&names[0], &format!("new {count}")).await;
            }
        }
        cluster.servers[0].restart();
        until(|| async {
            if let Outcome::Item(found) = get(&cluster.client, &names[0]).outcome().await {
                assert_eq!(found, None);
            }
            cluster.client.health().0.len() == 1
        })
        .await;
        until(|| async { cluster.servers[0].item(&names[0]).is_none() }).await;
        assert_eq!(cluster.value(&names[0]).await, None);
        assert_eq!(cluster.value(&names[1]).await.as_deref(), Some("old"));
    });
}

#[test]
fn without_any_substitute_calls_fail_as_before() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(1);
        for server in &cluster.servers[..3] {
            server.kill(true).await;
        }
        until(|| async {
            for number in 0..30 {
                let _ = get(&cluster.client, &format!("other:{number}")).outcome().await;
            }
            cluster.client.health().0.is_empty()
        })
        .await;
        let failed = cluster.set(&names[0], "new").await;
        assert!(matches!(failed, Outcome::Failed(f) if matches!(f.kind, FailureKind::Pool(_))));
        cluster.servers[0].put(&names[0], "old");
        cluster.servers[0].restart();
        cluster.servers[1].restart();
        cluster.servers[2].restart();
        until(|| async { cluster.client.health().1.is_empty() }).await;
        cluster.calm().await;
        // The failed write is newer than what the node had.
        assert_eq!(cluster.value(&names[0]).await, None);
    });
}

#[test]
fn nodes_join_and_leave_while_one_is_down() {
    run(async {
        let cluster = Cluster::start(false, failover()).await;
        let names = cluster.keys(30);
        cluster.servers[0].kill(true).await;
        cluster.down(&names[0]).await;
        for name in &names {
            cluster.stored(name, "first").await;
        }
        let joining = cluster.client.add_node(cluster.servers[3].address(), None);
        cluster.client.change(&[joining], &[], &[0, 1, 2, joining], &[]);
        for name in &names {
            cluster.stored(name, "second").await;
        }
        // The node that is down leaves, and its keys have other homes.
        cluster.client.change(&[], &[0], &[1, 2, joining], &[]);
        for name in &names {
            let found = cluster.value(name).await;
            assert!(found.is_none_or(|value| value == "second"));
            cluster.stored(name, "third").await;
        }
        cluster.calm().await;
        for server in &cluster.servers[1..] {
            for name in &names {
                assert!(server.item(name).is_none_or(|(value, _)| value == "third"), "{name}");
            }
        }
        assert!(names.iter().any(|name| cluster.servers[3].item(name).is_some()));
    });
}

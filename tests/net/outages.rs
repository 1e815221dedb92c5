//! A broker that dies and comes back, with its memory and its KV bucket lost.

use crate::contract::{ack, connect, mail, number, peer};
use crate::leases::{event, status};
use crate::mails::frame;
use crate::nats::NatsServer;
use crate::soon;
use stageline_transport::{Arrived, LeaseEvent, NatsLeases, Post};

#[tokio::test]
async fn a_restarted_broker_is_told_of_and_mail_flows_again() {
    let mut server = NatsServer::start().await;
    let (a, b) = (connect(&server).await, connect(&server).await);
    let (from, to) = (peer(0, 1), peer(1, 1));
    let mut sender = a.register(from.clone()).await.unwrap();
    let mut mailbox = b.register(to.clone()).await.unwrap();
    a.post(&to, frame(&from.replica, 1, 4)).unwrap();
    assert_eq!(number(&mail(&mut mailbox.stream).await), 1);

    for _ in 0..2 {
        server.kill();
        server.start_again().await;
        for control in [&mut sender.control, &mut mailbox.control] {
            let news = soon("news of the broker", control.recv()).await;
            assert!(matches!(news, Some(Arrived::Reconnected)), "{news:?}");
        }
        // Both have their connection again, so their subscriptions follow at once; mail posted now may still find nobody.
        let through = async {
            for n in 2.. {
                a.post(&to, ack(&from, n)).unwrap();
                tokio::select! {
                    arrived = mailbox.control.recv() => match arrived {
                        Some(Arrived::Mail(_)) => return,
                        other => panic!("{other:?}"),
                    },
                    arrived = sender.control.recv() => match arrived {
                        Some(Arrived::Unreachable { peer }) => assert_eq!(peer, to),
                        other => panic!("{other:?}"),
                    },
                }
            }
        };
        soon("mail", through).await;
        while sender.control.try_recv().is_ok() || mailbox.control.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn posting_while_the_broker_is_away_is_bounded_and_never_blocks() {
    let mut server = NatsServer::start().await;
    let net = connect(&server).await;
    let (from, to) = (peer(0, 1), peer(1, 1));
    let _mailbox = net.register(from.clone()).await.unwrap();
    server.kill();
    let full = async {
        let mut n = 0;
        while net.post(&to, frame(&from.replica, 1, 1 << 10)).is_ok() {
            n += 1;
            tokio::task::yield_now().await;
        }
        n
    };
    let taken = soon("a full queue", full).await;
    assert!(taken < 10_000, "{taken}");
}

#[tokio::test]
async fn a_broker_that_forgets_the_leases_kills_nobody_and_the_dead_are_found_after() {
    let mut server = NatsServer::start().await;
    let (a, b) = (connect(&server).await, connect(&server).await);
    let (one, two) = (peer(0, 1), peer(1, 1));
    let first = NatsLeases::open(&a).await.unwrap().keep(status(&one)).await.unwrap();
    let leases = NatsLeases::open(&b).await.unwrap();
    let second = leases.keep(status(&two)).await.unwrap();
    let mut view = leases.watch();
    for _ in 0..2 {
        assert!(matches!(event(&mut view).await, LeaseEvent::Appeared(_)));
    }
    let mut held = first.held();

    server.kill();
    soon("the loss of the lease", held.wait_for(|held| !held)).await.unwrap();
    server.start_again().await;
    soon("the lease again", held.wait_for(|held| *held)).await.unwrap();
    assert_eq!(view.replicas().borrow().len(), 2, "an outage longer than a lease kills nobody");

    // The next that is told is the one that really goes.
    drop(second);
    assert_eq!(event(&mut view).await, LeaseEvent::Gone(two.clone()));
    first.withdraw().await;
    assert_eq!(event(&mut view).await, LeaseEvent::Gone(one));
}

//! Replicas that lose what they are sent.

use super::*;

#[test]
fn a_replica_that_loses_what_it_is_sent_is_tried_after_the_others_and_by_one_at_a_time() {
    let mut counter = Counter::new();
    let (lame, sound) = (ReplicaId::new("lame", 2), ReplicaId::new("sound", 3));
    let both = [lame.clone(), sound.clone()];
    counter.live(at(0), &[&both]);
    let path = |counter: &Counter| counter.opened.last().map(|opening| opening.path[1].clone());
    let mut now = at(0);
    let mut open = |counter: &mut Counter, after: Duration| {
        now = now + after;
        let sequence = counter.submit(now, 50).unwrap();
        (now, sequence)
    };
    let lost = |sequence| {
        let fault = Fault::new(FaultClass::Unavailable, "lost");
        Report::Failed { sequence, attempt: 1, cause: Cause::Lost, stage: 1, fault }
    };
    let (now, first) = open(&mut counter, Duration::ZERO);
    assert_eq!(path(&counter), Some(lame.clone()), "of equals the first");
    counter.report(now, lost(first));
    counter.on(now, DoorEvent::Cancel(first));
    for _ in 0..3 {
        let (now, next) = open(&mut counter, Duration::from_millis(100));
        assert_eq!(path(&counter), Some(sound.clone()));
        counter.on(now, DoorEvent::Cancel(next));
    }
    let (now, again) = open(&mut counter, Duration::from_millis(300));
    assert_eq!(path(&counter), Some(lame.clone()), "its time is over");
    counter.report(now, lost(again));
    counter.on(now, DoorEvent::Cancel(again));
    let (now, next) = open(&mut counter, Duration::from_millis(600));
    assert_eq!(path(&counter), Some(sound), "the second time is twice as long");
    counter.on(now, DoorEvent::Cancel(next));
    // The only one left is taken, suspect or not.
    counter.live(now, &[std::slice::from_ref(&lame)]);
    open(&mut counter, Duration::ZERO);
    assert_eq!(path(&counter), Some(lame));
}

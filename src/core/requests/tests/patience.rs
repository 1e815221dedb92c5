//! Requests that wait for as long as they may.

use super::*;

#[test]
fn who_is_patient_waits_behind_all_others_and_keeps_nobody_out() {
    let mut counter = Counter::new();
    let first = counter.submit(at(0), 10).unwrap();
    let patient: Vec<SequenceId> = (0..30).map(|_| counter.submit_as(at(1), 10, true).unwrap()).collect();
    let others: Vec<SequenceId> = (0..10).map(|_| counter.submit(at(2), 10).unwrap()).collect();
    assert_eq!(counter.submit(at(2), 10).unwrap_err().class, FaultClass::Overloaded, "max_queue counts the others");
    counter.submit_as(at(2), 10, true).unwrap();
    let mut order = vec![first];
    while order.len() < 12 {
        counter.on(at(3), DoorEvent::Cancel(*order.last().unwrap()));
        order.push(counter.opened.last().unwrap().sequence);
    }
    assert_eq!((&order[1..11], order[11]), (&others[..], patient[0]));
    // Nothing but its deadline ends its waiting.
    counter.on(at(50_000), DoorEvent::Time);
    let refused = counter.ended.iter().filter(|(sequence, _)| patient.contains(sequence)).count();
    assert_eq!(refused, 0);
}

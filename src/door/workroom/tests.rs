use super::*;
use std::sync::mpsc;

/// Work that says when it has begun, and waits until it may end.
fn held() -> (impl FnOnce() -> u32 + Send + 'static, mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (begun, begins) = mpsc::sync_channel(1);
    let (end, ends) = mpsc::sync_channel::<()>(1);
    let work = move || {
        begun.send(()).unwrap();
        // A test that is over lets go of the other end.
        let _ = ends.recv();
        1
    };
    (work, begins, end)
}

#[tokio::test]
async fn short_work_passes_long_work_and_the_smallest_goes_first() {
    let room = Arc::new(Workroom::new());
    let order = Arc::new(Mutex::new(Vec::new()));
    let (work, begins, end) = held();
    let long = |bytes, work: Box<dyn FnOnce() -> u32 + Send>| {
        let room = Arc::clone(&room);
        async move { room.done(bytes, work).await.unwrap() }
    };
    let first = tokio::spawn(long(9 << 20, Box::new(work)));
    tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
    let noted = |n: u32| {
        let order = Arc::clone(&order);
        Box::new(move || {
            order.lock().unwrap().push(n);
            n
        })
    };
    let mut others: Vec<_> = [(3 << 20, 3), (1 << 20, 1), (2 << 20, 2)]
        .map(|(bytes, n)| Box::pin(long(bytes, noted(n))))
        .into_iter()
        .collect();
    for other in &mut others {
        assert!(futures::poll!(other).is_pending());
    }
    // The only thread that takes long work is held; a short piece is done all the same.
    assert_eq!(room.done(1, noted(0)).await, Ok(0));
    assert_eq!(*order.lock().unwrap(), [0]);
    end.send(()).unwrap();
    assert_eq!(first.await.unwrap(), 1);
    futures::future::join_all(others).await;
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_not_begun() {
    let room = Workroom::new();
    let (work, begins, end) = held();
    let mut first = Box::pin(room.done(1 << 20, work));
    assert!(futures::poll!(&mut first).is_pending());
    tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
    let left = Box::pin(room.done(1 << 20, || panic!("it was begun")));
    {
        let mut left = left;
        assert!(futures::poll!(&mut left).is_pending());
    }
    end.send(()).unwrap();
    assert_eq!(first.await, Ok(1));
    assert_eq!(room.done(2 << 20, || 2).await, Ok(2));
}

#[tokio::test]
async fn work_that_panics_is_a_fault_and_the_next_is_done() {
    let room = Workroom::new();
    let broken = room.done::<u32>(1, || panic!("broken on purpose")).await.unwrap_err();
    assert_eq!(broken.class, FaultClass::Internal);
    assert_eq!(room.done(1, || 2).await, Ok(2));
}

#[tokio::test]
async fn only_so_much_waits() {
    let room = Workroom::new();
    let (work, begins, _end) = held();
    let mut first = Box::pin(room.done(1 << 20, work));
    assert!(futures::poll!(&mut first).is_pending());
    tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
    let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(room.done(1 << 20, || 0))).collect();
    for wait in &mut waiting {
        assert!(futures::poll!(wait).is_pending());
    }
    assert_eq!(room.done(1 << 20, || 0).await.unwrap_err().class, FaultClass::Overloaded);
    // Those who left make room.
    waiting.pop();
    let mut next = Box::pin(room.done(1 << 20, || 0));
    assert!(futures::poll!(&mut next).is_pending());
}

use std::sync::mpsc;

use futures::poll;

use super::*;

/// A file that tells when it is closed.
struct Opened {
    closed: Arc<AtomicUsize>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

fn stores(max_open: usize, idle: Duration) -> (OpenStores<Opened>, Arc<AtomicUsize>, tempfile::TempDir) {
    let temp = tempfile::tempdir().unwrap();
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let open = move |path: &Path| {
        File::create(path).map_err(|error| StoreError::io(path, error))?;
        Ok(Opened { closed: Arc::clone(&count) })
    };
    (OpenStores::new(temp.path(), OpenBounds { max_open, idle }, open).unwrap(), closed, temp)
}

fn id(number: usize) -> StoreId {
    let name = format!("s{number}").parse().unwrap();
    StoreId { tenant: Tenant::default(), app: "app".parse().unwrap(), name }
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_one_that_was_used_longest_ago_makes_room() {
    let (stores, closed, _temp) = stores(3, LONG);
    for number in [0, 1, 2] {
        drop(stores.or_create(&id(number)).await.unwrap());
        thread::sleep(Duration::from_millis(2));
    }
    // Used again, so that 1 is the oldest.
    assert!(stores.existing(&id(0)).await.unwrap().is_some());
    drop(stores.or_create(&id(3)).await.unwrap());
    assert_eq!((stores.count(), closed.load(Ordering::SeqCst)), (3, 1));
    assert!(stores.shared.opened(&id(1)).is_none() && stores.shared.opened(&id(0)).is_some());
    // It has its file still.
    assert!(stores.existing(&id(1)).await.unwrap().is_some());
    assert!(stores.existing(&id(9)).await.unwrap().is_none());
    assert_eq!(stores.shared.slots.read().unwrap().len(), 3);
    drop(stores);
    assert_eq!(closed.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn what_is_in_use_is_not_closed_and_the_bound_holds() {
    let (stores, closed, _temp) = stores(2, Duration::from_millis(1));
    let held = [stores.or_create(&id(0)).await.unwrap(), stores.or_create(&id(1)).await.unwrap()];
    let Err(error) = stores.or_create(&id(2)).await else { panic!("opened") };
    assert!(matches!(error, StoreError::TooManyOpen { max: 2 }) && error.to_string().contains("try again"), "{error}");
    thread::sleep(Duration::from_millis(20));
    assert_eq!((stores.count(), closed.load(Ordering::SeqCst)), (2, 0));
    // Who asks again gets the same.
    assert!(Arc::ptr_eq(&held[0], &stores.or_create(&id(0)).await.unwrap()));
    drop(held);
    drop(stores.or_create(&id(2)).await.unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while stores.count() > 0 {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(closed.load(Ordering::SeqCst), 3);
    assert!(stores.shared.slots.read().unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_takes_no_place() {
    let temp = tempfile::tempdir().unwrap();
    let open = |path: &Path| -> Result<Opened, StoreError> {
        Err(StoreError::Corrupt { path: path.to_owned(), detail: "on purpose".into() })
    };
    let stores = OpenStores::new(temp.path(), OpenBounds { max_open: 1, idle: LONG }, open).unwrap();
    for number in 0..3 {
        assert!(matches!(stores.or_create(&id(number)).await, Err(StoreError::Corrupt { .. })));
    }
    assert_eq!(stores.count(), 0);
    assert!(stores.shared.slots.read().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deletion_of_an_app_waits_for_who_uses_it_and_refuses_who_comes() {
    let (stores, closed, temp) = stores(4, LONG);
    let held = stores.or_create(&id(0)).await.unwrap();
    let deletion = tokio::spawn({
        let stores = stores.clone();
        async move { stores.delete_app(&id(0).tenant, &id(0).app, |_| ()).await }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while stores.shared.deleting.lock().unwrap().is_empty() || stores.shared.opened(&id(0)).is_some() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for number in [0, 1] {
        assert!(matches!(stores.or_create(&id(number)).await, Err(StoreError::BeingDeleted)));
    }
    assert!(matches!(stores.delete_app(&id(0).tenant, &id(0).app, |_| ()).await, Err(StoreError::BeingDeleted)));
    assert!(temp.path().join("default/app/s0.db").exists());
    drop(held);
    deletion.await.unwrap().unwrap();
    assert_eq!((stores.count(), closed.load(Ordering::SeqCst)), (0, 1));
    assert!(!temp.path().join("default/app").exists());
    drop(stores.or_create(&id(0)).await.unwrap());
    assert!(temp.path().join("default/app/s0.db").exists());
}

/// A file that is not closed before its sender is dropped.
struct Slow {
    is_closing: Arc<AtomicUsize>,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.is_closing.fetch_add(1, Ordering::SeqCst);
        let _ = lock(&self.gate).recv_timeout(Duration::from_secs(20));
    }
}

#[tokio::test]
async fn a_thread_that_serves_others_does_not_wait_for_a_store_that_closes() {
    let temp = tempfile::tempdir().unwrap();
    let (hold, gate) = mpsc::channel();
    let (is_closing, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(gate)));
    let closing = Arc::clone(&is_closing);
    let open = move |path: &Path| {
        File::create(path).map_err(|error| StoreError::io(path, error))?;
        Ok(Slow { is_closing: Arc::clone(&closing), gate: Arc::clone(&gate) })
    };
    let bounds = OpenBounds { max_open: 4, idle: Duration::from_millis(1) };
    let stores = OpenStores::new(temp.path(), bounds, open).unwrap();
    drop(stores.or_create(&id(0)).await.unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_closing.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(1));
    }
    let began = Instant::now();
    let asked = id(0);
    let mut read = Box::pin(stores.existing(&asked));
    let mut write = Box::pin(stores.or_create(&asked));
    assert!(poll!(&mut read).is_pending() && poll!(&mut write).is_pending());
    assert!(began.elapsed() < Duration::from_secs(10), "it waited on this thread");
    drop(hold);
    assert!(read.await.unwrap().is_some());
    drop(write.await.unwrap());
}

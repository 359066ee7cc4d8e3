//! What goes on in the instance once the answer is complete.

use wasip3::http::types::Response;
use wasip3::spawn_local;

use crate::{answer, fetch, sleep_ms};

/// Long enough that the answer has left before the work begins: it begins when nothing else is to be done.
const PAUSE_MS: u64 = 200;

/// Waits for another server. The connection to it shows from outside how long the work goes on.
pub fn fetch(url: String) -> Response {
    spawn_local(async move {
        sleep_ms(PAUSE_MS).await;
        println!("fetched after the answer: {:?}", fetch::fetch(&url).await);
    });
    answer::text(200, "the work follows\n")
}

/// Computes beside that, and never comes back.
pub fn spin(url: String) -> Response {
    spawn_local(async {
        sleep_ms(2 * PAUSE_MS).await;
        crate::spin();
    });
    fetch(url)
}

/// Sleeps as a program does that knows nothing of async: the whole instance stands still.
pub fn block(ms: u64) -> Response {
    spawn_local(async move {
        sleep_ms(1).await;
        println!("falls asleep");
        std::thread::sleep(std::time::Duration::from_millis(ms));
    });
    answer::text(200, "asleep from now on\n")
}

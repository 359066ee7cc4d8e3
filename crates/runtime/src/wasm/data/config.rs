//! `wasi:config`: the function's environment, as deployments and secrets have set it.

use wasmtime::component::Linker;

use super::{DataView, HasDataView};
use crate::wasm::state::GuestState;

mod rc1 {
    wasmtime::component::bindgen!({
        path: "../../wit/config",
        world: "wasi:config/imports",
        imports: { default: trappable },
    });
}

mod draft {
    wasmtime::component::bindgen!({
        path: "../../wit/config-draft",
        world: "wasi:config/imports",
        imports: { default: trappable },
    });
}

/// Both versions have the same calls.
macro_rules! config_host {
    ($version:ident) => {
        impl $version::wasi::config::store::Host for DataView<'_> {
            fn get(
                &mut self,
                key: String,
            ) -> wasmtime::Result<Result<Option<String>, $version::wasi::config::store::Error>> {
                Ok(Ok(self.function()?.spec().env.get(&key).cloned()))
            }

            fn get_all(
                &mut self,
            ) -> wasmtime::Result<Result<Vec<(String, String)>, $version::wasi::config::store::Error>> {
                let env = &self.function()?.spec().env;
                Ok(Ok(env.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
            }
        }
    };
}

config_host!(rc1);
config_host!(draft);

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    rc1::wasi::config::store::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    draft::wasi::config::store::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}

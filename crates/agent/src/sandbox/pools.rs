//! What makes starts quick, held together: memories of templates, loaded guests and started VMMs. None of it is needed: a start
//! that finds nothing here makes its own.

use std::sync::Arc;

use super::machine::MachineSizes;
use super::pool::Pool;
use super::prestarted_vmms::PrestartedVmm;
use super::template_memory::TemplateMemories;
use super::warm_vms::WarmVm;
use crate::storage::Capture;

/// The pools of one host.
pub struct Pools {
    pub template_memories: TemplateMemories,
    pub warm_vms: Arc<Pool<WarmVm>>,
    /// None for a driver whose VMMs cannot wait for a guest.
    pub prestarted_vmms: Option<Arc<Pool<PrestartedVmm>>>,
}

impl Pools {
    /// Makes empty pools that hold at most `each_max` items each; 0 switches them off.
    pub fn new(each_max: usize, can_prestart: bool) -> Self {
        Self {
            template_memories: TemplateMemories::default(),
            warm_vms: Arc::new(Pool::new(each_max)),
            prestarted_vmms: can_prestart.then(|| Arc::new(Pool::new(each_max))),
        }
    }

    /// Notes that sandboxes will be made from this template's memory: what can be created will also be paused and resumed.
    pub fn expect_template(&self, capture: &Capture) {
        self.warm_vms.expect(capture);
        self.expect_restore(&MachineSizes::of(&capture.manifest));
    }

    /// Notes that a guest of these sizes will be restored.
    pub fn expect_restore(&self, sizes: &MachineSizes) {
        if let Some(pool) = &self.prestarted_vmms {
            pool.expect(sizes);
        }
    }

    /// Takes a VMM that waits for a guest of these sizes, if there is one.
    pub fn take_prestarted(&self, sizes: &MachineSizes) -> Option<PrestartedVmm> {
        self.prestarted_vmms.as_ref()?.take(sizes)
    }
}

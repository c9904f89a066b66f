//! The table of procedures: number, name, arguments, result, and whether the call changes anything.
//!
//! To add a call: its row here, its types in [`crate::types`], and a function in the daemon.

use crate::frame::{QEMU_PROGRAM, REMOTE_PROGRAM};
use crate::types::*;
use crate::xdr::{Decode, Encode};

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone, also through the read-only socket.
    Reads,
    /// Only who may change things.
    Writes,
}

/// A procedure.
pub trait Procedure {
    /// Its program.
    const PROGRAM: u32;
    /// Its number in the program.
    const NUMBER: i32;
    /// Its name.
    const NAME: &'static str;
    /// Who may call it.
    const ACCESS: Access;
    /// What it is given.
    type Args: Decode + Encode;
    /// What it returns.
    type Ret: Decode + Encode;
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The program.
    pub program: u32,
    /// The number in it.
    pub number: i32,
    /// The name.
    pub name: &'static str,
    /// Who may call.
    pub access: Access,
}

macro_rules! procedures {
    ($($program:ident { $($number:literal $name:ident $kind:ident($args:ty) -> $ret:ty, $access:ident;)* })*) => {
        $($(
            #[doc = concat!("Procedure ", stringify!($number), ", ", stringify!($name), ".")]
            #[derive(Debug)]
            pub struct $kind;

            impl Procedure for $kind {
                const PROGRAM: u32 = $program;
                const NUMBER: i32 = $number;
                const NAME: &'static str = stringify!($name);
                const ACCESS: Access = Access::$access;
                type Args = $args;
                type Ret = $ret;
            }
        )*)*

        /// Every procedure, in the order of their programs and numbers.
        pub const TABLE: &[Row] = &[
            $($(Row { program: $program, number: $number, name: stringify!($name), access: Access::$access },)*)*
        ];

        /// Reads what a procedure is given. The bytes are those of the value; false if they are none, or there is no such procedure.
        #[cfg(any(test, fuzzing))]
        pub(crate) fn arguments_are_read(program: u32, number: i32, bytes: &[u8]) -> bool {
            match (program, number) {
                $($(($program, $number) => crate::xdr::from_bytes::<$args>(bytes).is_ok(),)*)*
                _ => false,
            }
        }
    };
}

procedures! {
    REMOTE_PROGRAM {
        1 CONNECT_OPEN ConnectOpen(OpenArgs) -> (), Reads;
        2 CONNECT_CLOSE ConnectClose(()) -> (), Reads;
        3 CONNECT_GET_TYPE ConnectGetType(()) -> String, Reads;
        4 CONNECT_GET_VERSION ConnectGetVersion(()) -> u64, Reads;
        5 CONNECT_GET_MAX_VCPUS ConnectGetMaxVcpus(Option<String>) -> i32, Reads;
        6 NODE_GET_INFO NodeGetInfo(()) -> NodeInfo, Reads;
        7 CONNECT_GET_CAPABILITIES ConnectGetCapabilities(()) -> String, Reads;
        8 DOMAIN_ATTACH_DEVICE DomainAttachDevice(DeviceArgs) -> (), Writes;
        9 DOMAIN_CREATE DomainCreate(Domain) -> (), Writes;
        10 DOMAIN_CREATE_XML DomainCreateXml(XmlFlagsArgs) -> Domain, Writes;
        11 DOMAIN_DEFINE_XML DomainDefineXml(String) -> Domain, Writes;
        12 DOMAIN_DESTROY DomainDestroy(Domain) -> (), Writes;
        13 DOMAIN_DETACH_DEVICE DomainDetachDevice(DeviceArgs) -> (), Writes;
        14 DOMAIN_GET_XML_DESC DomainGetXmlDesc(DomainFlagsArgs) -> String, Reads;
        15 DOMAIN_GET_AUTOSTART DomainGetAutostart(Domain) -> i32, Reads;
        16 DOMAIN_GET_INFO DomainGetInfo(Domain) -> DomainInfo, Reads;
        17 DOMAIN_GET_MAX_MEMORY DomainGetMaxMemory(Domain) -> u64, Reads;
        18 DOMAIN_GET_MAX_VCPUS DomainGetMaxVcpus(Domain) -> i32, Reads;
        19 DOMAIN_GET_OS_TYPE DomainGetOsType(Domain) -> String, Reads;
        20 DOMAIN_GET_VCPUS DomainGetVcpus(GetVcpusArgs) -> GetVcpusRet, Reads;
        21 CONNECT_LIST_DEFINED_DOMAINS ConnectListDefinedDomains(i32) -> List<String, MAX_DOMAINS>, Reads;
        22 DOMAIN_LOOKUP_BY_ID DomainLookupById(i32) -> Domain, Reads;
        23 DOMAIN_LOOKUP_BY_NAME DomainLookupByName(String) -> Domain, Reads;
        24 DOMAIN_LOOKUP_BY_UUID DomainLookupByUuid(Uuid) -> Domain, Reads;
        25 CONNECT_NUM_OF_DEFINED_DOMAINS ConnectNumOfDefinedDomains(()) -> i32, Reads;
        26 DOMAIN_PIN_VCPU DomainPinVcpu(PinVcpuArgs) -> (), Writes;
        27 DOMAIN_REBOOT DomainReboot(DomainFlagsArgs) -> (), Writes;
        28 DOMAIN_RESUME DomainResume(Domain) -> (), Writes;
        29 DOMAIN_SET_AUTOSTART DomainSetAutostart(SetAutostartArgs) -> (), Writes;
        30 DOMAIN_SET_MAX_MEMORY DomainSetMaxMemory(MemoryArgs) -> (), Writes;
        31 DOMAIN_SET_MEMORY DomainSetMemory(MemoryArgs) -> (), Writes;
        32 DOMAIN_SET_VCPUS DomainSetVcpus(VcpusArgs) -> (), Writes;
        33 DOMAIN_SHUTDOWN DomainShutdown(Domain) -> (), Writes;
        34 DOMAIN_SUSPEND DomainSuspend(Domain) -> (), Writes;
        35 DOMAIN_UNDEFINE DomainUndefine(Domain) -> (), Writes;
        36 CONNECT_LIST_DEFINED_NETWORKS ConnectListDefinedNetworks(i32) -> List<String, MAX_NETWORKS>, Reads;
        37 CONNECT_LIST_DOMAINS ConnectListDomains(i32) -> List<i32, MAX_DOMAINS>, Reads;
        38 CONNECT_LIST_NETWORKS ConnectListNetworks(i32) -> List<String, MAX_NETWORKS>, Reads;
        39 NETWORK_CREATE NetworkCreate(Network) -> (), Writes;
        40 NETWORK_CREATE_XML NetworkCreateXml(String) -> Network, Writes;
        41 NETWORK_DEFINE_XML NetworkDefineXml(String) -> Network, Writes;
        42 NETWORK_DESTROY NetworkDestroy(Network) -> (), Writes;
        43 NETWORK_GET_XML_DESC NetworkGetXmlDesc(NetworkFlagsArgs) -> String, Reads;
        44 NETWORK_GET_AUTOSTART NetworkGetAutostart(Network) -> i32, Reads;
        45 NETWORK_GET_BRIDGE_NAME NetworkGetBridgeName(Network) -> String, Reads;
        46 NETWORK_LOOKUP_BY_NAME NetworkLookupByName(String) -> Network, Reads;
        47 NETWORK_LOOKUP_BY_UUID NetworkLookupByUuid(Uuid) -> Network, Reads;
        48 NETWORK_SET_AUTOSTART NetworkSetAutostart(NetworkSetAutostartArgs) -> (), Writes;
        49 NETWORK_UNDEFINE NetworkUndefine(Network) -> (), Writes;
        50 CONNECT_NUM_OF_DEFINED_NETWORKS ConnectNumOfDefinedNetworks(()) -> i32, Reads;
        51 CONNECT_NUM_OF_DOMAINS ConnectNumOfDomains(()) -> i32, Reads;
        52 CONNECT_NUM_OF_NETWORKS ConnectNumOfNetworks(()) -> i32, Reads;
        56 DOMAIN_GET_SCHEDULER_TYPE DomainGetSchedulerType(Domain) -> SchedulerType, Reads;
        57 DOMAIN_GET_SCHEDULER_PARAMETERS DomainGetSchedulerParameters(OldSchedulerParametersArgs) -> SchedulerParameters, Reads;
        58 DOMAIN_SET_SCHEDULER_PARAMETERS DomainSetSchedulerParameters(OldSetSchedulerParametersArgs) -> (), Writes;
        59 CONNECT_GET_HOSTNAME ConnectGetHostname(()) -> String, Reads;
        60 CONNECT_SUPPORTS_FEATURE ConnectSupportsFeature(i32) -> i32, Reads;
        64 DOMAIN_BLOCK_STATS DomainBlockStats(OldBlockStatsArgs) -> OldBlockStats, Reads;
        65 DOMAIN_INTERFACE_STATS DomainInterfaceStats(InterfaceStatsArgs) -> InterfaceStats, Reads;
        66 AUTH_LIST AuthList(()) -> List<i32, 20>, Reads;
        71 CONNECT_NUM_OF_STORAGE_POOLS ConnectNumOfStoragePools(()) -> i32, Reads;
        72 CONNECT_LIST_STORAGE_POOLS ConnectListStoragePools(i32) -> List<String, MAX_POOLS>, Reads;
        73 CONNECT_NUM_OF_DEFINED_STORAGE_POOLS ConnectNumOfDefinedStoragePools(()) -> i32, Reads;
        74 CONNECT_LIST_DEFINED_STORAGE_POOLS ConnectListDefinedStoragePools(i32) -> List<String, MAX_POOLS>, Reads;
        75 CONNECT_FIND_STORAGE_POOL_SOURCES ConnectFindStoragePoolSources(FindSourcesArgs) -> String, Writes;
        76 STORAGE_POOL_CREATE_XML StoragePoolCreateXml(XmlFlagsArgs) -> StoragePool, Writes;
        77 STORAGE_POOL_DEFINE_XML StoragePoolDefineXml(XmlFlagsArgs) -> StoragePool, Writes;
        78 STORAGE_POOL_CREATE StoragePoolCreate(PoolFlagsArgs) -> (), Writes;
        79 STORAGE_POOL_BUILD StoragePoolBuild(PoolFlagsArgs) -> (), Writes;
        80 STORAGE_POOL_DESTROY StoragePoolDestroy(StoragePool) -> (), Writes;
        81 STORAGE_POOL_DELETE StoragePoolDelete(PoolFlagsArgs) -> (), Writes;
        82 STORAGE_POOL_UNDEFINE StoragePoolUndefine(StoragePool) -> (), Writes;
        83 STORAGE_POOL_REFRESH StoragePoolRefresh(PoolFlagsArgs) -> (), Writes;
        84 STORAGE_POOL_LOOKUP_BY_NAME StoragePoolLookupByName(String) -> StoragePool, Reads;
        85 STORAGE_POOL_LOOKUP_BY_UUID StoragePoolLookupByUuid(Uuid) -> StoragePool, Reads;
        86 STORAGE_POOL_LOOKUP_BY_VOLUME StoragePoolLookupByVolume(StorageVolume) -> StoragePool, Reads;
        87 STORAGE_POOL_GET_INFO StoragePoolGetInfo(StoragePool) -> PoolInfo, Reads;
        88 STORAGE_POOL_GET_XML_DESC StoragePoolGetXmlDesc(PoolFlagsArgs) -> String, Reads;
        89 STORAGE_POOL_GET_AUTOSTART StoragePoolGetAutostart(StoragePool) -> i32, Reads;
        90 STORAGE_POOL_SET_AUTOSTART StoragePoolSetAutostart(PoolAutostartArgs) -> (), Writes;
        91 STORAGE_POOL_NUM_OF_VOLUMES StoragePoolNumOfVolumes(StoragePool) -> i32, Reads;
        92 STORAGE_POOL_LIST_VOLUMES StoragePoolListVolumes(ListVolumesArgs) -> List<String, MAX_VOLUMES>, Reads;
        93 STORAGE_VOL_CREATE_XML StorageVolCreateXml(VolumeCreateArgs) -> StorageVolume, Writes;
        94 STORAGE_VOL_DELETE StorageVolDelete(VolumeFlagsArgs) -> (), Writes;
        95 STORAGE_VOL_LOOKUP_BY_NAME StorageVolLookupByName(VolumeByNameArgs) -> StorageVolume, Reads;
        96 STORAGE_VOL_LOOKUP_BY_KEY StorageVolLookupByKey(String) -> StorageVolume, Reads;
        97 STORAGE_VOL_LOOKUP_BY_PATH StorageVolLookupByPath(String) -> StorageVolume, Reads;
        98 STORAGE_VOL_GET_INFO StorageVolGetInfo(StorageVolume) -> VolumeInfo, Reads;
        99 STORAGE_VOL_GET_XML_DESC StorageVolGetXmlDesc(VolumeFlagsArgs) -> String, Reads;
        100 STORAGE_VOL_GET_PATH StorageVolGetPath(StorageVolume) -> String, Reads;
        101 NODE_GET_CELLS_FREE_MEMORY NodeGetCellsFreeMemory(CellsArgs) -> List<u64, 1024>, Reads;
        102 NODE_GET_FREE_MEMORY NodeGetFreeMemory(()) -> u64, Reads;
        110 CONNECT_GET_URI ConnectGetUri(()) -> String, Reads;
        111 NODE_NUM_OF_DEVICES NodeNumOfDevices(CountDevicesArgs) -> i32, Reads;
        112 NODE_LIST_DEVICES NodeListDevices(ListDevicesArgs) -> List<String, MAX_NODE_DEVICES>, Reads;
        113 NODE_DEVICE_LOOKUP_BY_NAME NodeDeviceLookupByName(String) -> NodeDevice, Reads;
        114 NODE_DEVICE_GET_XML_DESC NodeDeviceGetXmlDesc(DeviceXmlArgs) -> String, Reads;
        115 NODE_DEVICE_GET_PARENT NodeDeviceGetParent(String) -> Option<String>, Reads;
        116 NODE_DEVICE_NUM_OF_CAPS NodeDeviceNumOfCaps(String) -> i32, Reads;
        117 NODE_DEVICE_LIST_CAPS NodeDeviceListCaps(ListCapabilitiesArgs) -> List<String, MAX_NODE_DEVICES>, Reads;
        121 DOMAIN_GET_SECURITY_LABEL DomainGetSecurityLabel(Domain) -> SecurityLabel, Reads;
        122 NODE_GET_SECURITY_MODEL NodeGetSecurityModel(()) -> SecurityModel, Reads;
        125 STORAGE_VOL_CREATE_XML_FROM StorageVolCreateXmlFrom(VolumeCreateFromArgs) -> StorageVolume, Writes;
        126 CONNECT_NUM_OF_INTERFACES ConnectNumOfInterfaces(()) -> i32, Reads;
        127 CONNECT_LIST_INTERFACES ConnectListInterfaces(i32) -> List<String, MAX_HOST_INTERFACES>, Reads;
        128 INTERFACE_LOOKUP_BY_NAME InterfaceLookupByName(String) -> HostInterface, Reads;
        129 INTERFACE_LOOKUP_BY_MAC_STRING InterfaceLookupByMacString(String) -> HostInterface, Reads;
        130 INTERFACE_GET_XML_DESC InterfaceGetXmlDesc(InterfaceXmlArgs) -> String, Reads;
        135 CONNECT_DOMAIN_XML_FROM_NATIVE ConnectDomainXmlFromNative(NativeArgs) -> String, Writes;
        136 CONNECT_DOMAIN_XML_TO_NATIVE ConnectDomainXmlToNative(NativeArgs) -> String, Writes;
        137 CONNECT_NUM_OF_DEFINED_INTERFACES ConnectNumOfDefinedInterfaces(()) -> i32, Reads;
        138 CONNECT_LIST_DEFINED_INTERFACES ConnectListDefinedInterfaces(i32) -> List<String, MAX_HOST_INTERFACES>, Reads;
        139 CONNECT_NUM_OF_SECRETS ConnectNumOfSecrets(()) -> i32, Reads;
        140 CONNECT_LIST_SECRETS ConnectListSecrets(i32) -> List<String, MAX_SECRETS>, Reads;
        141 SECRET_LOOKUP_BY_UUID SecretLookupByUuid(Uuid) -> Secret, Reads;
        142 SECRET_DEFINE_XML SecretDefineXml(XmlFlagsArgs) -> Secret, Writes;
        143 SECRET_GET_XML_DESC SecretGetXmlDesc(SecretFlagsArgs) -> String, Reads;
        144 SECRET_SET_VALUE SecretSetValue(SecretSetValueArgs) -> (), Writes;
        145 SECRET_GET_VALUE SecretGetValue(SecretFlagsArgs) -> Opaque<MAX_SECRET_VALUE>, Writes;
        146 SECRET_UNDEFINE SecretUndefine(Secret) -> (), Writes;
        147 SECRET_LOOKUP_BY_USAGE SecretLookupByUsage(SecretByUsageArgs) -> Secret, Reads;
        149 CONNECT_IS_SECURE ConnectIsSecure(()) -> i32, Reads;
        150 DOMAIN_IS_ACTIVE DomainIsActive(Domain) -> i32, Reads;
        151 DOMAIN_IS_PERSISTENT DomainIsPersistent(Domain) -> i32, Reads;
        152 NETWORK_IS_ACTIVE NetworkIsActive(Network) -> i32, Reads;
        153 NETWORK_IS_PERSISTENT NetworkIsPersistent(Network) -> i32, Reads;
        154 STORAGE_POOL_IS_ACTIVE StoragePoolIsActive(StoragePool) -> i32, Reads;
        155 STORAGE_POOL_IS_PERSISTENT StoragePoolIsPersistent(StoragePool) -> i32, Reads;
        156 INTERFACE_IS_ACTIVE InterfaceIsActive(HostInterface) -> i32, Reads;
        157 CONNECT_GET_LIB_VERSION ConnectGetLibVersion(()) -> u64, Reads;
        158 CONNECT_COMPARE_CPU ConnectCompareCpu(XmlFlagsArgs) -> i32, Reads;
        159 DOMAIN_MEMORY_STATS DomainMemoryStats(MemoryStatsArgs) -> List<MemoryStat, 1024>, Reads;
        160 DOMAIN_ATTACH_DEVICE_FLAGS DomainAttachDeviceFlags(DeviceFlagsArgs) -> (), Writes;
        161 DOMAIN_DETACH_DEVICE_FLAGS DomainDetachDeviceFlags(DeviceFlagsArgs) -> (), Writes;
        162 CONNECT_BASELINE_CPU ConnectBaselineCpu(BaselineCpuArgs) -> String, Reads;
        163 DOMAIN_GET_JOB_INFO DomainGetJobInfo(Domain) -> JobInfo, Reads;
        164 DOMAIN_ABORT_JOB DomainAbortJob(Domain) -> (), Writes;
        165 STORAGE_VOL_WIPE StorageVolWipe(VolumeFlagsArgs) -> (), Writes;
        174 DOMAIN_UPDATE_DEVICE_FLAGS DomainUpdateDeviceFlags(DeviceFlagsArgs) -> (), Writes;
        183 DOMAIN_HAS_MANAGED_SAVE_IMAGE DomainHasManagedSaveImage(DomainFlagsArgs) -> i32, Reads;
        187 DOMAIN_SNAPSHOT_NUM DomainSnapshotNum(DomainFlagsArgs) -> i32, Reads;
        194 DOMAIN_GET_BLOCK_INFO DomainGetBlockInfo(BlockInfoArgs) -> BlockInfo, Reads;
        196 DOMAIN_CREATE_WITH_FLAGS DomainCreateWithFlags(DomainFlagsArgs) -> Domain, Writes;
        197 DOMAIN_SET_MEMORY_PARAMETERS DomainSetMemoryParameters(SetParametersArgs) -> (), Writes;
        198 DOMAIN_GET_MEMORY_PARAMETERS DomainGetMemoryParameters(GetParametersArgs) -> Parameters<16>, Reads;
        199 DOMAIN_SET_VCPUS_FLAGS DomainSetVcpusFlags(VcpusFlagsArgs) -> (), Writes;
        200 DOMAIN_GET_VCPUS_FLAGS DomainGetVcpusFlags(DomainFlagsArgs) -> i32, Reads;
        201 DOMAIN_OPEN_CONSOLE DomainOpenConsole(OpenConsoleArgs) -> (), Writes;
        202 DOMAIN_IS_UPDATED DomainIsUpdated(Domain) -> i32, Reads;
        203 CONNECT_GET_SYSINFO ConnectGetSysinfo(u32) -> String, Reads;
        204 DOMAIN_SET_MEMORY_FLAGS DomainSetMemoryFlags(MemoryFlagsArgs) -> (), Writes;
        205 DOMAIN_SET_BLKIO_PARAMETERS DomainSetBlkioParameters(SetParametersArgs) -> (), Writes;
        206 DOMAIN_GET_BLKIO_PARAMETERS DomainGetBlkioParameters(GetParametersArgs) -> Parameters<16>, Reads;
        208 STORAGE_VOL_UPLOAD StorageVolUpload(VolumeStreamArgs) -> (), Writes;
        209 STORAGE_VOL_DOWNLOAD StorageVolDownload(VolumeStreamArgs) -> (), Writes;
        210 DOMAIN_INJECT_NMI DomainInjectNmi(DomainFlagsArgs) -> (), Writes;
        211 DOMAIN_SCREENSHOT DomainScreenshot(ScreenshotArgs) -> Option<String>, Writes;
        212 DOMAIN_GET_STATE DomainGetState(DomainFlagsArgs) -> StateAndReason, Reads;
        219 DOMAIN_SET_SCHEDULER_PARAMETERS_FLAGS DomainSetSchedulerParametersFlags(SetParametersArgs) -> (), Writes;
        223 DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS DomainGetSchedulerParametersFlags(SchedulerParametersArgs) -> SchedulerParameters, Reads;
        225 DOMAIN_PIN_VCPU_FLAGS DomainPinVcpuFlags(PinVcpuFlagsArgs) -> (), Writes;
        226 DOMAIN_SEND_KEY DomainSendKey(SendKeyArgs) -> (), Writes;
        227 NODE_GET_CPU_STATS NodeGetCpuStats(NodeCpuStatsArgs) -> NodeStats, Reads;
        228 NODE_GET_MEMORY_STATS NodeGetMemoryStats(NodeMemoryStatsArgs) -> NodeStats, Reads;
        229 DOMAIN_GET_CONTROL_INFO DomainGetControlInfo(DomainFlagsArgs) -> ControlInfo, Reads;
        230 DOMAIN_GET_VCPU_PIN_INFO DomainGetVcpuPinInfo(VcpuPinInfoArgs) -> CpuMaps, Reads;
        231 DOMAIN_UNDEFINE_FLAGS DomainUndefineFlags(DomainFlagsArgs) -> (), Writes;
        234 DOMAIN_DESTROY_FLAGS DomainDestroyFlags(DomainFlagsArgs) -> (), Writes;
        238 DOMAIN_GET_BLOCK_JOB_INFO DomainGetBlockJobInfo(BlockJobArgs) -> BlockJobRet, Reads;
        243 DOMAIN_BLOCK_STATS_FLAGS DomainBlockStatsFlags(BlockStatsArgs) -> Parameters<16>, Reads;
        245 DOMAIN_RESET DomainReset(DomainFlagsArgs) -> (), Writes;
        250 NODE_SUSPEND_FOR_DURATION NodeSuspendForDuration(NodeSuspendArgs) -> (), Writes;
        251 DOMAIN_BLOCK_RESIZE DomainBlockResize(BlockResizeArgs) -> (), Writes;
        253 DOMAIN_GET_BLOCK_IO_TUNE DomainGetBlockIoTune(BlockTuneArgs) -> Parameters<32>, Reads;
        254 DOMAIN_SET_NUMA_PARAMETERS DomainSetNumaParameters(SetParametersArgs) -> (), Writes;
        255 DOMAIN_GET_NUMA_PARAMETERS DomainGetNumaParameters(GetParametersArgs) -> Parameters<16>, Reads;
        257 DOMAIN_GET_INTERFACE_PARAMETERS DomainGetInterfaceParameters(InterfaceParametersArgs) -> Parameters<16>, Reads;
        258 DOMAIN_SHUTDOWN_FLAGS DomainShutdownFlags(DomainFlagsArgs) -> (), Writes;
        259 STORAGE_VOL_WIPE_PATTERN StorageVolWipePattern(VolumeWipeArgs) -> (), Writes;
        260 STORAGE_VOL_RESIZE StorageVolResize(VolumeResizeArgs) -> (), Writes;
        261 DOMAIN_PM_SUSPEND_FOR_DURATION DomainPmSuspendForDuration(PmSuspendArgs) -> (), Writes;
        262 DOMAIN_GET_CPU_STATS DomainGetCpuStats(CpuStatsArgs) -> Parameters<2048>, Reads;
        263 DOMAIN_GET_DISK_ERRORS DomainGetDiskErrors(DiskErrorsArgs) -> DiskErrors, Reads;
        264 DOMAIN_SET_METADATA DomainSetMetadata(SetMetadataArgs) -> (), Writes;
        265 DOMAIN_GET_METADATA DomainGetMetadata(GetMetadataArgs) -> String, Reads;
        267 DOMAIN_PM_WAKEUP DomainPmWakeup(DomainFlagsArgs) -> (), Writes;
        273 CONNECT_LIST_ALL_DOMAINS ConnectListAllDomains(ListAllArgs) -> ListAllDomainsRet, Reads;
        277 DOMAIN_GET_HOSTNAME DomainGetHostname(DomainFlagsArgs) -> String, Writes;
        279 DOMAIN_PIN_EMULATOR DomainPinEmulator(PinEmulatorArgs) -> (), Writes;
        280 DOMAIN_GET_EMULATOR_PIN_INFO DomainGetEmulatorPinInfo(EmulatorPinInfoArgs) -> CpuMaps, Reads;
        281 CONNECT_LIST_ALL_STORAGE_POOLS ConnectListAllStoragePools(ListAllArgs) -> ListAllPoolsRet, Reads;
        282 STORAGE_POOL_LIST_ALL_VOLUMES StoragePoolListAllVolumes(ListAllVolumesArgs) -> ListAllVolumesRet, Reads;
        283 CONNECT_LIST_ALL_NETWORKS ConnectListAllNetworks(ListAllArgs) -> ListAllNetworksRet, Reads;
        284 CONNECT_LIST_ALL_INTERFACES ConnectListAllInterfaces(ListAllArgs) -> ListAllInterfacesRet, Reads;
        285 CONNECT_LIST_ALL_NODE_DEVICES ConnectListAllNodeDevices(ListAllArgs) -> ListAllDevicesRet, Reads;
        287 CONNECT_LIST_ALL_SECRETS ConnectListAllSecrets(ListAllArgs) -> ListAllSecretsRet, Reads;
        289 NODE_GET_MEMORY_PARAMETERS NodeGetMemoryParameters(NodeParametersArgs) -> Parameters<64>, Reads;
        291 NETWORK_UPDATE NetworkUpdate(NetworkUpdateArgs) -> (), Writes;
        293 NODE_GET_CPU_MAP NodeGetCpuMap(CpuMapArgs) -> CpuMapRet, Reads;
        294 DOMAIN_FSTRIM DomainFsTrim(FsTrimArgs) -> (), Writes;
        298 DOMAIN_GET_JOB_STATS DomainGetJobStats(DomainFlagsArgs) -> JobStatsRet, Reads;
        308 DOMAIN_SET_MEMORY_STATS_PERIOD DomainSetMemoryStatsPeriod(MemoryPeriodArgs) -> (), Writes;
        312 CONNECT_GET_CPU_MODEL_NAMES ConnectGetCpuModelNames(CpuModelsArgs) -> CpuModelsRet, Reads;
        313 CONNECT_NETWORK_EVENT_REGISTER_ANY NetworkEventRegister(NetworkEventRegisterArgs) -> i32, Reads;
        314 CONNECT_NETWORK_EVENT_DEREGISTER_ANY NetworkEventDeregister(i32) -> (), Reads;
        316 CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY DomainEventRegister(EventRegisterArgs) -> i32, Reads;
        317 CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY DomainEventDeregister(i32) -> (), Reads;
        335 DOMAIN_FSFREEZE DomainFsFreeze(FsFreezeArgs) -> i32, Writes;
        336 DOMAIN_FSTHAW DomainFsThaw(FsFreezeArgs) -> i32, Writes;
        337 DOMAIN_GET_TIME DomainGetTime(DomainFlagsArgs) -> GuestTime, Writes;
        338 DOMAIN_SET_TIME DomainSetTime(SetTimeArgs) -> (), Writes;
        340 NODE_GET_FREE_PAGES NodeGetFreePages(FreePagesArgs) -> List<u64, MAX_CELLS>, Reads;
        341 NETWORK_GET_DHCP_LEASES NetworkGetDhcpLeases(DhcpLeasesArgs) -> DhcpLeasesRet, Reads;
        342 CONNECT_GET_DOMAIN_CAPABILITIES ConnectGetDomainCapabilities(DomainCapabilitiesArgs) -> String, Reads;
        344 CONNECT_GET_ALL_DOMAIN_STATS ConnectGetAllDomainStats(AllStatsArgs) -> List<StatsRecord, MAX_DOMAINS>, Reads;
        347 NODE_ALLOC_PAGES NodeAllocPages(AllocPagesArgs) -> i32, Writes;
        349 DOMAIN_GET_FSINFO DomainGetFsInfo(DomainFlagsArgs) -> FsInfos, Writes;
        350 DOMAIN_DEFINE_XML_FLAGS DomainDefineXmlFlags(XmlFlagsArgs) -> Domain, Writes;
        351 DOMAIN_GET_IOTHREAD_INFO DomainGetIoThreadInfo(DomainFlagsArgs) -> IoThreads, Reads;
        353 DOMAIN_INTERFACE_ADDRESSES DomainInterfaceAddresses(InterfaceAddressesArgs) -> List<InterfaceAddresses, 2048>, Reads;
        357 DOMAIN_SET_USER_PASSWORD DomainSetUserPassword(SetUserPasswordArgs) -> (), Writes;
        358 DOMAIN_RENAME DomainRename(RenameArgs) -> i32, Writes;
        360 CONNECT_REGISTER_CLOSE_CALLBACK ConnectRegisterCloseCallback(()) -> (), Reads;
        361 CONNECT_UNREGISTER_CLOSE_CALLBACK ConnectUnregisterCloseCallback(()) -> (), Reads;
        365 DOMAIN_GET_PERF_EVENTS DomainGetPerfEvents(DomainFlagsArgs) -> PerfEvents, Reads;
        368 CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY StoragePoolEventRegister(PoolEventRegisterArgs) -> i32, Reads;
        369 CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY StoragePoolEventDeregister(i32) -> (), Reads;
        371 DOMAIN_GET_GUEST_VCPUS DomainGetGuestVcpus(DomainFlagsArgs) -> List<TypedParameter, 64>, Writes;
        372 DOMAIN_SET_GUEST_VCPUS DomainSetGuestVcpus(SetVcpuArgs) -> (), Writes;
        374 CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY NodeDeviceEventRegister(DeviceEventRegisterArgs) -> i32, Reads;
        375 CONNECT_NODE_DEVICE_EVENT_DEREGISTER_ANY NodeDeviceEventDeregister(i32) -> (), Reads;
        378 STORAGE_VOL_GET_INFO_FLAGS StorageVolGetInfoFlags(VolumeFlagsArgs) -> VolumeInfo, Reads;
        380 CONNECT_SECRET_EVENT_REGISTER_ANY SecretEventRegister(SecretEventRegisterArgs) -> i32, Reads;
        381 CONNECT_SECRET_EVENT_DEREGISTER_ANY SecretEventDeregister(i32) -> (), Reads;
        384 DOMAIN_SET_VCPU DomainSetVcpu(SetVcpuArgs) -> (), Writes;
        390 DOMAIN_SET_LIFECYCLE_ACTION DomainSetLifecycleAction(LifecycleActionArgs) -> (), Writes;
        391 STORAGE_POOL_LOOKUP_BY_TARGET_PATH StoragePoolLookupByTargetPath(String) -> StoragePool, Reads;
        392 DOMAIN_DETACH_DEVICE_ALIAS DomainDetachDeviceAlias(DeviceFlagsArgs) -> (), Writes;
        393 CONNECT_COMPARE_HYPERVISOR_CPU ConnectCompareHypervisorCpu(CompareHypervisorCpuArgs) -> i32, Reads;
        394 CONNECT_BASELINE_HYPERVISOR_CPU ConnectBaselineHypervisorCpu(BaselineHypervisorCpuArgs) -> String, Reads;
        403 CONNECT_GET_STORAGE_POOL_CAPABILITIES ConnectGetStoragePoolCapabilities(u32) -> String, Reads;
        404 NETWORK_LIST_ALL_PORTS NetworkListAllPorts(NetworkPortsArgs) -> NetworkPortsRet, Reads;
        405 NETWORK_PORT_LOOKUP_BY_UUID NetworkPortLookupByUuid(NetworkPort) -> NetworkPort, Reads;
        407 NETWORK_PORT_GET_PARAMETERS NetworkPortGetParameters(NetworkPortParametersArgs) -> Parameters<16>, Reads;
        409 NETWORK_PORT_GET_XML_DESC NetworkPortGetXmlDesc(NetworkPortFlagsArgs) -> String, Reads;
        418 DOMAIN_GET_GUEST_INFO DomainGetGuestInfo(GuestInfoArgs) -> List<TypedParameter, 2048>, Writes;
        426 DOMAIN_GET_MESSAGES DomainGetMessages(DomainFlagsArgs) -> List<String, 2048>, Reads;
        432 NETWORK_DEFINE_XML_FLAGS NetworkDefineXmlFlags(XmlFlagsArgs) -> Network, Writes;
        433 NODE_DEVICE_GET_AUTOSTART NodeDeviceGetAutostart(String) -> i32, Reads;
        435 NODE_DEVICE_IS_PERSISTENT NodeDeviceIsPersistent(String) -> i32, Reads;
        436 NODE_DEVICE_IS_ACTIVE NodeDeviceIsActive(String) -> i32, Reads;
        437 NETWORK_CREATE_XML_FLAGS NetworkCreateXmlFlags(XmlFlagsArgs) -> Network, Writes;
    }
    QEMU_PROGRAM {
        1 QEMU_DOMAIN_MONITOR_COMMAND QemuMonitorCommand(MonitorCommandArgs) -> String, Writes;
        3 QEMU_DOMAIN_AGENT_COMMAND QemuAgentCommand(AgentCommandArgs) -> Option<String>, Writes;
    }
}

/// Procedure of the event that a guest's life cycle went on: [`LifecycleMessage`].
pub const EVENT_LIFECYCLE: i32 = 318;
/// Procedure of the event that a guest rebooted: [`RebootMessage`].
pub const EVENT_REBOOT: i32 = 319;
/// Procedure of the event that a guest set its real-time clock: [`RtcMessage`].
pub const EVENT_RTC: i32 = 320;
/// Procedure of the event that a guest let its watchdog run out: [`WatchdogMessage`].
pub const EVENT_WATCHDOG: i32 = 321;
/// Procedure of the event that the tray of a drive moved: [`TrayMessage`].
pub const EVENT_TRAY: i32 = 328;
/// Procedure of the event that a guest woke up: [`PmMessage`].
pub const EVENT_PM_WAKEUP: i32 = 329;
/// Procedure of the event that a guest went to sleep: [`PmMessage`].
pub const EVENT_PM_SUSPEND: i32 = 330;
/// Procedure of the event that a balloon has another size: [`BalloonMessage`].
pub const EVENT_BALLOON: i32 = 331;
/// Procedure of the event that a device is gone: [`DeviceMessage`].
pub const EVENT_DEVICE_REMOVED: i32 = 333;
/// Procedure of the event that a device is there: [`DeviceMessage`].
pub const EVENT_DEVICE_ADDED: i32 = 354;
/// Procedure of the event that a guest has another amount of a memory device: [`MemoryDeviceMessage`].
pub const EVENT_MEMORY_DEVICE: i32 = 438;
/// Procedure of the event that a text about a guest changed: [`MetadataMessage`].
pub const EVENT_METADATA: i32 = 379;

/// Procedure of the event that a network's life cycle went on: [`NetworkLifecycleMessage`].
pub const EVENT_NETWORK_LIFECYCLE: i32 = 315;

/// Procedure of the event that a pool's life cycle went on: [`PoolLifecycleMessage`].
pub const EVENT_POOL_LIFECYCLE: i32 = 370;
/// Procedure of the event that a pool was looked at anew: [`PoolRefreshMessage`].
pub const EVENT_POOL_REFRESH: i32 = 373;
/// Procedure of the event that a secret was defined or undefined: [`SecretLifecycleMessage`].
pub const EVENT_SECRET_LIFECYCLE: i32 = 382;
/// Procedure of the event that a secret has another value: [`SecretValueMessage`].
pub const EVENT_SECRET_VALUE: i32 = 383;

/// The row of a procedure, if it is known.
pub fn find(program: u32, number: i32) -> Option<&'static Row> {
    let found = TABLE.binary_search_by_key(&(program, number), |row| (row.program, row.number));
    TABLE.get(found.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        let place = |row: &Row| (row.program, row.number);
        assert!(TABLE.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])));
        assert_eq!(
            find(REMOTE_PROGRAM, 201).map(|row| (row.name, row.access)),
            Some(("DOMAIN_OPEN_CONSOLE", Access::Writes))
        );
        assert_eq!(find(REMOTE_PROGRAM, 0), None);
        assert_eq!(find(QEMU_PROGRAM, 201), None);
    }
}

<?php
// Reads the keys that come on standard input, each on a line: php reader.php HOST:PORT,...
$client = new Memcached();
$client->setOptions([
    Memcached::OPT_LIBKETAMA_COMPATIBLE => true,
    Memcached::OPT_CONNECT_TIMEOUT => 200,
    Memcached::OPT_RECV_TIMEOUT => 200_000,
    Memcached::OPT_RETRY_TIMEOUT => 1,
]);
foreach (explode(",", $argv[1]) as $node) {
    [$host, $port] = explode(":", $node);
    $client->addServer($host, (int) $port);
}
while (($key = fgets(STDIN)) !== false) {
    $value = $client->get(trim($key));
    $missed = $client->getResultCode() === Memcached::RES_NOTFOUND;
    echo $missed ? "miss" : ($value === false ? "error" : $value), "\n";
}

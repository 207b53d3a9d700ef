"""The words of made-up shops: categories in three languages, with the things in each, what is said of them, sizes."""

from typing import NamedTuple


class Category(NamedTuple):
    """A category of a shop, in one language; a title is made of a noun, a quality and a size."""

    name: str
    nouns: tuple[str, ...]
    qualities: tuple[str, ...]
    sizes: tuple[str, ...]


_GERMAN = """
Yogamatten: Yogamatte, Gymnastikmatte, Pilatesmatte: Natur, Kork, rutschfest, extra dick, faltbar, Kautschuk: 4 mm, 6 mm, 10 mm, 183 x 61 cm
Katzenfutter: Katzenfutter, Nassfutter für Katzen, Trockenfutter für Katzen: Huhn, Lachs, Rind, getreidefrei, Senior, Kitten: 85 g, 400 g, 2 kg, 10 kg
Bratpfannen: Bratpfanne, Schmorpfanne, Grillpfanne: Gusseisen, Edelstahl, beschichtet, Keramik, Induktion, handgeschmiedet: 20 cm, 24 cm, 28 cm, 32 cm
Wanderschuhe: Wanderschuh, Trekkingstiefel, Bergschuh: wasserdicht, Leder, leicht, Damen, Herren, knöchelhoch: Gr. 38, Gr. 41, Gr. 43, Gr. 46
Bettwäsche: Bettwäsche, Bettbezug, Kopfkissenbezug: Baumwolle, Leinen, Satin, Flanell, gestreift, bügelfrei: 135 x 200 cm, 155 x 220 cm, 200 x 200 cm, 80 x 80 cm
Akkuschrauber: Akkuschrauber, Schlagbohrschrauber, Akkubohrer: bürstenlos, kompakt, mit Koffer, zwei Akkus, Profi, mit Ladegerät: 12 V, 18 V, 20 V, 36 V
Gartenschläuche: Gartenschlauch, Bewässerungsschlauch, Schlauchtrommel: flexibel, knickfrei, dehnbar, mit Brause, frostsicher, verstärkt: 10 m, 20 m, 30 m, 50 m
Kinderwagen: Kinderwagen, Buggy, Kombikinderwagen: faltbar, Sportsitz, mit Babywanne, Luftreifen, Zwillinge, reisetauglich: bis 15 kg, bis 22 kg, ab Geburt, ab 6 Monaten
Fahrradhelme: Fahrradhelm, Rennradhelm, Kinderhelm: mit Licht, Mips, belüftet, matt, verstellbar, mit Visier: S, M, L, XL
Espressokannen: Espressokanne, Mokkakanne, Kaffeekocher: Aluminium, Edelstahl, Induktion, klassisch, mit Holzgriff, elektrisch: 2 Tassen, 4 Tassen, 6 Tassen, 9 Tassen
Kräutertee: Kräutertee, Pfefferminztee, Kamillentee: Bio, lose, Beutel, Abendmischung, Ingwer, ohne Koffein: 50 g, 100 g, 250 g, 20 Beutel
Wanduhren: Wanduhr, Bahnhofsuhr, Küchenuhr: lautlos, Holz, Funk, Retro, Metall, römische Ziffern: 25 cm, 30 cm, 40 cm, 60 cm
Gitarrensaiten: Gitarrensaiten, Westernsaiten, E-Gitarrensaiten: Bronze, Nickel, Nylon, beschichtet, weich, Konzert: .009, .010, .011, .012
Schulranzen: Schulranzen, Schulrucksack, Tornister: ergonomisch, Dinosaurier, Einhorn, Weltraum, reflektierend, mit Mäppchen: 16 l, 18 l, 20 l, 24 l
Blumenerde: Blumenerde, Pflanzerde, Anzuchterde: torffrei, Bio, Kräuter, Tomaten, Orchideen, mit Dünger: 10 l, 20 l, 40 l, 70 l
Regenjacken: Regenjacke, Regenmantel, Hardshell: wasserdicht, atmungsaktiv, Damen, Herren, mit Kapuze, gelb: S, M, L, XL
Kopfkissen: Kopfkissen, Nackenkissen, Seitenschläferkissen: Daunen, Memoryschaum, Dinkel, waschbar, orthopädisch, kühlend: 40 x 80 cm, 80 x 80 cm, 50 x 30 cm, 145 x 40 cm
Messerblöcke: Messerblock, Kochmesser, Brotmesser: Damast, Bambus, geschmiedet, magnetisch, mit Schere, japanisch: 15 cm, 20 cm, 5-teilig, 7-teilig
Zelte: Zelt, Kuppelzelt, Tunnelzelt: Familie, wasserdicht, ultraleicht, Wurfzelt, mit Vorraum, Winter: 1 Person, 2 Personen, 4 Personen, 6 Personen
Hundeleinen: Hundeleine, Schleppleine, Führleine: Leder, Nylon, reflektierend, geflochten, verstellbar, mit Ruckdämpfer: 1 m, 2 m, 5 m, 10 m
Füllfederhalter: Füllfederhalter, Füller, Kolbenfüller: Feder F, Feder M, schwarz, Edelharz, Linkshänder, mit Konverter: Einzelstück, Set, Etui, Geschenkbox
Backformen: Backform, Springform, Gugelhupfform: Silikon, emailliert, antihaft, Herz, auslaufsicher, Glasboden: 18 cm, 24 cm, 26 cm, 28 cm
Badezimmerteppiche: Badematte, Badvorleger, Duschvorleger: Mikrofaser, flauschig, Baumwolle, rund, rutschhemmend, Memoryschaum: 50 x 80 cm, 60 x 90 cm, 70 x 120 cm, 80 cm
Brettspiele: Brettspiel, Kartenspiel, Würfelspiel: kooperativ, Strategie, für Familien, Krimi, Reise, Klassiker: ab 6 Jahren, ab 8 Jahren, ab 10 Jahren, 2-4 Spieler
Schneeschaufeln: Schneeschaufel, Schneeschieber, Eiskratzer: Aluminium, Holzstiel, mit Rollen, teleskop, breit, Kinder: 40 cm, 50 cm, 60 cm, 80 cm
Vogelfutter: Vogelfutter, Meisenknödel, Sonnenblumenkerne für Vögel: Winter, geschält, Erdnuss, ohne Netz, Mehlwurm, Ganzjahr: 1 kg, 2,5 kg, 5 kg, 25 kg
Angelruten: Angelrute, Spinnrute, Teleskoprute: Carbon, Hecht, Karpfen, Forelle, Reise, Einsteiger: 2,10 m, 2,40 m, 3,00 m, 3,60 m
Weihnachtskugeln: Weihnachtskugel, Christbaumschmuck, Baumspitze: Glas, rot, gold, bruchfest, glitzernd, mundgeblasen: 4 cm, 6 cm, 12 Stück, 24 Stück
"""

_ENGLISH = """
Desk lamps: LED desk lamp, reading lamp, clamp lamp: with dimmer, USB port, brass, foldable, wireless charger, warm light: 5 W, 8 W, 12 W, 40 cm
Running shoes: running shoes, trail running shoes, racing flats: cushioned, women's, men's, carbon plate, breathable, wide fit: size 6, size 8, size 10, size 12
Coffee beans: coffee beans, espresso beans, decaf coffee: dark roast, Ethiopia, fair trade, Colombia, medium roast, single origin: 250 g, 500 g, 1 kg, 3 lb
Headphones: wireless headphones, over-ear headphones, earbuds: noise cancelling, studio, gaming, foldable, sport, bass boost: 20 h battery, 30 h battery, 40 h battery, 60 h battery
Phone cases: phone case, phone cover, bumper case: clear, leather, shockproof, magnetic, glitter, card holder: for Model 12, for Model 13, for Model 14, for Model 15
Garden shears: pruning shears, hedge trimmer, garden loppers: bypass, telescopic, cordless, ergonomic, anvil, hardened steel: 20 cm, 45 cm, 60 cm, 80 cm
Detective novels: detective novel, crime thriller, murder mystery: paperback, hardcover, Victorian London, Nordic noir, large print, award winner: 220 pages, 310 pages, 420 pages, 560 pages
Protein powder: whey protein powder, vegan protein powder, protein shake: chocolate, vanilla, strawberry, unflavoured, isolate, low carb: 500 g, 1 kg, 2 kg, 5 lb
Baby bottles: baby bottle, feeding bottle, sippy cup: anti-colic, glass, slow flow, with handles, silicone, newborn: 120 ml, 160 ml, 240 ml, 330 ml
Mechanical keyboards: mechanical keyboard, gaming keyboard, compact keyboard: RGB, brown switches, hot-swap, wireless, aluminium, quiet: 60 %, 75 %, 80 %, full size
Dog toys: dog chew toy, rope toy for dogs, squeaky dog ball: rubber, indestructible, puppy, plush, floating, treat dispensing: small, medium, large, 3 pack
Winter coats: winter coat, down parka, wool overcoat: hooded, waterproof, women's, men's, quilted, faux fur: S, M, L, XXL
Paint brushes: paint brush set, watercolour brush, acrylic brush: sable, synthetic, fan, round, flat, for beginners: 6 pieces, 12 pieces, size 4, size 10
Car tyres: car tyre, all-season tyre, winter tyre: SUV, run-flat, low noise, reinforced, studded, eco: 185/65 R15, 205/55 R16, 225/45 R17, 235/35 R19
Sunscreen: sunscreen lotion, sun spray, after-sun gel: mineral, for kids, sensitive skin, water resistant, face, fragrance free: SPF 15, SPF 30, SPF 50, 200 ml
Jigsaw puzzles: jigsaw puzzle, 3D puzzle, wooden puzzle: landscape, animals, castle, world map, vintage posters, galaxy: 100 pieces, 500 pieces, 1000 pieces, 2000 pieces
Electric toothbrushes: electric toothbrush, sonic toothbrush, brush heads: with timer, travel case, soft bristles, for kids, whitening, pressure sensor: single, 2 pack, 4 pack, 8 pack
Bluetooth speakers: bluetooth speaker, party speaker, shower speaker: waterproof, portable, stereo, with lights, retro, outdoor: 5 W, 10 W, 20 W, 60 W
Suitcases: suitcase, cabin trolley, travel bag: hard shell, expandable, four wheels, lightweight, with lock, underseat: 35 l, 55 l, 75 l, 100 l
Scented candles: scented candle, soy candle, tealights: lavender, vanilla, cedarwood, cotton, three wicks, in glass: 150 g, 220 g, 400 g, 12 pack
Fishing tents and tackle: tackle box, fishing line, lure set: braided, carp, pike, saltwater, with tray, monofilament: 100 m, 300 m, 20 pieces, 60 pieces
Olive oil: extra virgin olive oil, olive oil, infused olive oil: Tuscan, Greek, cold pressed, garlic, organic, unfiltered: 250 ml, 500 ml, 1 l, 5 l
Office chairs: office chair, desk chair, gaming chair: mesh, lumbar support, leather, headrest, kneeling, adjustable: up to 110 kg, up to 130 kg, up to 150 kg, compact
Violin accessories: violin strings, violin bow, violin rosin: synthetic core, carbon fibre, dark, student, hypoallergenic, orchestra: 1/2, 3/4, 4/4, set
Swimming goggles: swimming goggles, diving mask, swim cap: anti-fog, mirrored, prescription, junior, wide view, silicone: S, M, L, one size
Wine glasses: wine glass, champagne flute, carafe: crystal, stemless, hand blown, dishwasher safe, red wine, gift box: 200 ml, 350 ml, set of 2, set of 6
Vitamins: vitamin D tablets, multivitamin gummies, magnesium capsules: vegan, high dose, for women, for men, slow release, sugar free: 60 count, 90 count, 120 count, 365 count
Power banks: power bank, portable charger, solar charger: fast charging, slim, USB-C, wireless, with cable, rugged: 5000 mAh, 10000 mAh, 20000 mAh, 30000 mAh
"""

_CHINESE = """
保温杯: 不锈钢保温杯, 保温水壶, 儿童保温杯: 真空, 大容量, 便携, 商务, 运动, 带吸管: 350毫升, 500毫升, 750毫升, 1升
茶叶: 绿茶, 红茶, 乌龙茶: 特级, 明前, 礼盒装, 有机, 高山, 浓香型: 50克, 125克, 250克, 500克
筷子: 竹筷子, 木筷子, 合金筷子: 防滑, 家用, 高档, 日式, 儿童, 耐高温: 5双, 10双, 20双, 25厘米
电饭锅: 电饭锅, 电饭煲, 迷你电饭锅: 智能, 预约, 不粘, 柴火, 家用, 低糖: 2升, 3升, 4升, 5升
书包: 小学生书包, 双肩包, 初中生书包: 护脊, 减负, 防水, 大容量, 轻便, 卡通: 1-3年级, 3-6年级, 20升, 30升
雨伞: 折叠雨伞, 长柄雨伞, 自动雨伞: 防晒, 抗风, 黑胶, 双人, 商务, 透明: 8骨, 10骨, 16骨, 24骨
毛笔: 毛笔, 书法毛笔, 国画毛笔: 狼毫, 羊毫, 兼毫, 初学者, 小楷, 大楷: 小号, 中号, 大号, 三支装
羽毛球拍: 羽毛球拍, 碳素羽毛球拍, 双人羽毛球拍: 超轻, 进攻型, 耐打, 训练, 儿童, 已穿线: 4U, 5U, 单支, 对拍
枕头: 乳胶枕, 记忆棉枕头, 荞麦枕: 护颈, 成人, 儿童, 低枕, 可水洗, 助眠: 30厘米, 40厘米, 60厘米, 一对装
面膜: 补水面膜, 美白面膜, 睡眠面膜: 玻尿酸, 蚕丝, 敏感肌, 男士, 胶原蛋白, 清洁: 5片, 10片, 20片, 100克
手机支架: 手机支架, 车载手机支架, 桌面手机支架: 磁吸, 折叠, 懒人, 金属, 可升降, 无线充电: 小号, 大号, 单个, 两个装
辣椒酱: 辣椒酱, 豆瓣酱, 牛肉辣酱: 香辣, 特辣, 蒜蓉, 下饭, 农家, 微辣: 200克, 280克, 500克, 1千克
运动鞋: 运动鞋, 跑步鞋, 篮球鞋: 透气, 减震, 男款, 女款, 防滑, 高帮: 36码, 39码, 42码, 44码
台灯: 护眼台灯, 床头灯, 学习台灯: 充电, 触摸, 无频闪, 夹子, 可调光, 国AA级: 5瓦, 9瓦, 12瓦, 20瓦
"""


def _parse(text: str) -> list[Category]:
    """One category a line: name, nouns, qualities and sizes between colons."""
    lines = [[part.strip() for part in line.split(":")] for line in text.strip().splitlines()]
    return [
        Category(name, *(tuple(word.strip() for word in part.split(", ")) for part in parts)) for name, *parts in lines
    ]


CATEGORIES = {"de": _parse(_GERMAN), "en": _parse(_ENGLISH), "zh": _parse(_CHINESE)}
BRANDS = {
    "de": ("Bergwald", "Nordlicht", "Haus & Hof", "Feldmann", "Albatros"),
    "en": ("Ridgeway", "Northbay", "Oak & Iron", "Lumina", "Halden"),
    "zh": ("云山", "小禾", "东篱", "海月", "青竹"),
}
SENTENCES = {
    "de": (
        "Robust und langlebig, für jeden Tag.",
        "Beliebt als Geschenk.",
        "In Deutschland geprüft, schnell geliefert.",
        "Angenehm im Gebrauch.",
    ),
    "en": (
        "Built to last and easy to care for.",
        "A popular gift.",
        "Tested by professionals, delivered fast.",
        "Made for every day.",
    ),
    "zh": ("经久耐用，适合日常使用。", "送礼佳品。", "品质保证，快速发货。", "做工精细。"),
}
SHARES = {"de": 0.4, "en": 0.4, "zh": 0.2}
"""Of the categories of a shop, by language."""

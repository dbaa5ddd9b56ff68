"""Word lists for synthetic documents: names, places, companies, products and the parts of sentences.

Decides to stay within `CHARACTERS`: printable ASCII and some thirty others that documents in
English, German and French use. Lists are long enough that two pages rarely look alike; that the
sentences mean little is the price.
"""

from __future__ import annotations

CHARACTERS = frozenset(map(chr, range(32, 127))) | frozenset("éèêëàâäáçîïíñôöóùûüúßÉÖÜÄÇ€£§°±×–—‘“”’•½²…©")


def split_words(text: str) -> tuple[str, ...]:
    """A list written as words separated by white space."""
    return tuple(text.split())


def split_phrases(text: str) -> tuple[str, ...]:
    """A list written as phrases separated by `|`."""
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


NOUNS = split_words("""
account agreement analysis answer apartment appliance approach archive area arrangement article assembly
assessment asset association attachment audit balance bakery barrier basement battery bearing benefit board
boiler bridge brochure budget building cabinet cable calendar campaign canal carpet catalogue ceiling cellar
certificate chapter charge church circuit claim clinic clock collection column committee comparison complaint
component concept concert conclusion condition container contract copy corridor council course courtyard credit
cupboard curtain customer deadline decision delay delivery department deposit depot design detail device dialogue
diagram directory discount district document door draft drawing drawer driver edition effect element engine
entrance envelope equipment error estimate evening event exhibition expense experiment extension fabric facade
factory fence festival field figure filter floor forecast forest foundation frame freight furnace garage garden
gate generator grant guarantee guide hall handbook harbour heating hedge highway hospital hotel household
improvement index inspection instruction instrument insurance interview inventory investment invitation invoice
island issue journal journey keyboard kitchen label laboratory ladder lamp laundry layer leaflet lecture ledger
lesson letter library licence lift list loan location lock machine magazine manual manuscript map margin market
material measure measurement meeting member memo message meter method microscope minute mirror model module
monitor motor museum network newsletter notice number objective observation offer office opening option orchard
order outcome outlet package paint panel paper parcel park partner passage path patient pattern payment permit
phase picture pipe plan platform policy pool portrait position poster practice premium price printer problem
procedure process product programme project proposal protocol pump quality quantity quarter question queue quota
quote railway range rate receipt recipe record reduction refund region register regulation reminder renovation
rent repair report request reserve residence result review revision ring risk river road roof room route sample
scale schedule school screen season seat section selection sensor series service session shelf shipment shop
shutter signal sketch solution source space sponsor square staircase standard statement station storage store
strategy street structure studio subject summary supplier supply surface survey switch system tank target tariff
task teacher team technique terminal terrace test theatre theory ticket timber timetable tool tower track trade
training transfer transport treatment trial tunnel turbine unit update vacancy valley value valve variant vehicle
vendor venue version village visit visitor volume voucher wall warehouse warranty water wheel window winter wire
witness workshop zone
""")

ADJECTIVES = split_words("""
additional annual available average basic bright broad broken central certain cheap clean clear coastal cold
common complete complex correct current daily damaged dark deep detailed different difficult direct domestic double
dry eastern economic electric empty entire equal exact existing experimental external extra fair familiar fast
final financial fixed flat flexible foreign formal former free fresh full further general gentle good gradual
grateful green heavy high historic huge ideal important independent individual industrial initial inner internal
joint large late later latest light likely limited local long loose loud low main major manual medical mild minor
missing mobile modern modest monthly narrow national natural necessary new next noisy normal northern obvious old
open optional ordinary original outer overall partial past permanent personal plain possible practical precise
preliminary present previous primary private promising proper public quick quiet rapid rare raw ready real recent
regional regular related reliable remaining remote repeated responsible rough round rural safe seasonal second
secondary separate serious severe sharp short similar simple single slight slow small smooth social solid southern
special specific square stable standard steady strict strong suitable sudden technical temporary thick thin third
tight tiny total typical unexpected unique unusual upper urban urgent useful usual valid valuable various vast
warm weak weekly western wet white whole wide wooden yearly young
""")

VERBS_PAST = split_words("""
accepted added adjusted agreed announced approved arranged assembled assessed avoided calculated cancelled changed
checked cleaned closed collected combined compared completed confirmed considered corrected covered created
decided declined delayed delivered described designed developed discussed doubled estimated examined exceeded
expanded explained explored extended finished fixed followed handled identified improved increased inspected
installed introduced invited joined kept launched limited listed located lost lowered maintained managed measured
mentioned modified monitored moved needed noted observed offered opened ordered organised outlined packed paid
planned postponed prepared presented prevented printed processed produced promised proposed protected provided
published purchased raised reached received recommended recorded reduced referred refused registered rejected
removed renewed repaired repeated replaced reported requested required reserved resolved restored returned
reviewed revised saved scanned selected sent separated shared shipped showed signed simplified sold solved sorted
stored studied submitted suggested supplied supported tested traced tracked transferred treated updated upgraded
used verified visited waived weighed welcomed widened
""")

VERBS_BASE = split_words("""
accept add adjust approve arrange assemble assess avoid calculate cancel change check clean close collect compare
complete confirm consider correct cover create deliver describe design develop discuss examine expand explain
extend finish fix follow improve inspect install introduce keep launch limit list maintain measure mention monitor
move note offer open order organise pack pay plan postpone prepare present print process produce protect provide
publish purchase raise receive recommend record reduce register remove renew repair replace report request reserve
resolve restore return review revise save select send share ship sign simplify solve sort store study submit
supply support test track transfer update use verify visit weigh
""")

ADVERBS = split_words("""
again almost already always barely briefly carefully clearly closely completely correctly currently directly
easily eventually exactly finally formally frequently fully generally gradually hardly immediately individually
jointly largely later mainly merely nearly normally occasionally often only partly perhaps personally possibly
precisely previously primarily probably promptly properly quickly quietly rarely recently regularly repeatedly
separately shortly significantly simply slightly slowly soon steadily still strongly sufficiently thoroughly
together twice typically usually
""")

PEOPLE = split_phrases("""
the accountant|the architect|the board|the caretaker|the clerk|the committee|the contractor|the customer|the
delivery driver|the director|the editor|the engineer|the examiner|the head of department|the inspector|the
insurer|the landlord|the librarian|the manager|the mayor|the nurse|the office|the planner|the project team|the
purchasing team|the receptionist|the research group|the sales team|the secretary|the supplier|the surveyor|the
teacher|the technician|the tenant|the treasurer|the trainee|the translator|the visitor|the volunteers|the working
group|our accountant|our colleagues|our laboratory|our partner|our warehouse|both parties|all members|most
customers|several residents|two neighbours
""")

MASS_NOUNS = split_words("""
bread butter cement cheese coal coffee copper cotton electricity flour fruit gas glass gravel grain honey ink
insulation leather linen milk oil paper petrol plaster plastic rice salt sand silk soap steel sugar tea timber
tobacco traffic water wax wheat wine wood wool zinc
""")

FIRST_NAMES = split_words("""
Adam Agnes Aisha Albert Alice Amélie André Anita Anna Antoine Arthur Beatrice Benjamin Björn Bruno Carla Caroline
Cécile Charles Chloé Claire Clara Daniel David Diana Dominic Dorothy Edith Edward Elena Élise Emil Emma Eric Esther
Eva Felix Fiona Florian François Frank Frieda George Gerda Greta Hannah Harold Helen Hélène Henry Hugo Ines Ingrid
Irene Isaac Isabel Ivan Jack Jacob James Jana Jane Jean Jérôme Johanna John Jonas Joseph Julia Jürgen Karin Kate
Kevin Klara Laura Leo Léa Linda Louis Lucia Lukas Malik Marco Margaret Maria Marie Martin Mary Matteo Max Maya
Michael Mira Monika Nadia Naomi Nathan Nicolas Nina Noah Nora Oliver Olga Oscar Paul Paula Peter Philip Priya Rachel
Ralph René Richard Robert Rosa Ruth Samuel Sandra Sarah Simon Sofia Sophie Stefan Susan Sven Theo Thérèse Thomas
Tobias Ulrich Ursula Valerie Vera Victor Viktor Walter William Yara Yasmin Yvonne Zoé
""")

LAST_NAMES = split_words("""
Abbott Adler Albrecht Allen Almeida Anders Archer Bailey Baker Barnes Baumann Becker Bell Bennett Berger Bernard
Bishop Blanc Bonnet Böhm Brandt Brooks Brown Bürger Burke Carter Castell Chevalier Clarke Cole Conrad Cooper Cox
Dean Delacroix Diaz Dietrich Dixon Dubois Dufour Duncan Dupont Eberhard Edwards Ellis Engel Evans Fabre Faulkner
Fischer Fleming Ford Foster Fournier Fox Franke Fuchs Garnier Gibson Girard Gordon Graham Gray Green Grimm Groß
Haas Hale Hansen Harper Hartmann Hayes Heinrich Henderson Herrmann Hill Hoffmann Holt Howard Huber Hughes Hunt
Ibrahim Jansen Jenkins Jensen Johnson Jones Jung Kaiser Kaufmann Keller Kelly Khan King Klein Knight Koch Köhler
König Krause Krüger Lambert Lang Laurent Lawson Leclerc Lee Lefèvre Lehmann Lewis Lindqvist Lopez Ludwig Maier
Marchand Marsh Martinez Mason Mayer Mercier Meyer Miller Mitchell Moore Moreau Morgan Müller Murphy Nash Neumann
Newman Nguyen Novak Olsen Owen Palmer Park Parker Patel Perrin Peters Petit Pfeiffer Phillips Pierce Porter Powell
Price Quinn Reed Renard Reyes Richter Roberts Robin Rossi Roth Rousseau Roux Russell Sanders Santos Sauer Schäfer
Schmidt Schneider Scholz Schröder Schubert Schulz Schwarz Scott Seidel Shaw Silva Simmons Singh Sommer Stein Stone
Sutton Taylor Thompson Tremblay Turner Vance Vogel Vogt Wagner Walker Wallace Walsh Ward Weber Webster Weiß Wells
West White Winkler Winter Wolf Wood Wright Young Ziegler Zimmermann
""")

CITIES = {
    "en-US": split_phrases("""
Albany|Ashland|Austin|Bakersfield|Boise|Boulder|Burlington|Charleston|Chester|Columbus|Concord|Dayton|Denver|Dover|
Durham|El Paso|Eugene|Fairfield|Fargo|Fresno|Greenville|Hartford|Helena|Jackson|Juneau|Knoxville|Lansing|Lincoln|
Madison|Memphis|Mobile|Nashua|Newark|Oakland|Omaha|Portland|Quincy|Raleigh|Richmond|Salem|San Jose|Santa Fe|
Savannah|Spokane|Springfield|Tacoma|Topeka|Tulsa|Utica|Wichita
"""),
    "en-GB": split_phrases("""
Aberdeen|Bath|Bedford|Belfast|Birmingham|Bolton|Bradford|Brighton|Bristol|Cambridge|Canterbury|Cardiff|Carlisle|
Chester|Colchester|Coventry|Derby|Dundee|Durham|Edinburgh|Ely|Exeter|Glasgow|Gloucester|Hereford|Hull|Inverness|
Ipswich|Lancaster|Leeds|Leicester|Lichfield|Lincoln|Luton|Newcastle|Norwich|Nottingham|Oxford|Perth|Plymouth|
Portsmouth|Preston|Reading|Salisbury|Sheffield|Stirling|Swansea|Truro|Wakefield|Wells|Winchester|Worcester|York
"""),
    "de": split_phrases("""
Aachen|Augsburg|Bamberg|Berlin|Bielefeld|Bochum|Bonn|Bremen|Coburg|Köln|Darmstadt|Dortmund|Dresden|Düsseldorf|
Erfurt|Essen|Frankfurt|Freiburg|Fürth|Gießen|Göttingen|Graz|Halle|Hamburg|Hannover|Heidelberg|Jena|Karlsruhe|
Kassel|Kiel|Leipzig|Linz|Lübeck|Mainz|Mannheim|Marburg|München|Münster|Nürnberg|Oldenburg|Osnabrück|Passau|
Regensburg|Rostock|Salzburg|Schwerin|Stuttgart|Trier|Tübingen|Ulm|Weimar|Wien|Würzburg
"""),
    "fr": split_phrases("""
Amiens|Angers|Annecy|Arras|Avignon|Bayonne|Besançon|Bordeaux|Brest|Caen|Calais|Cannes|Chambéry|Colmar|Dijon|
Genève|Grenoble|La Rochelle|Lausanne|Le Havre|Le Mans|Liège|Lille|Limoges|Lyon|Marseille|Metz|Montpellier|
Montréal|Mulhouse|Namur|Nancy|Nantes|Nice|Nîmes|Orléans|Paris|Pau|Perpignan|Poitiers|Québec|Reims|Rennes|Rouen|
Saint-Étienne|Strasbourg|Toulon|Toulouse|Tours|Troyes|Valence|Versailles
"""),
}

STREETS = {
    "en-US": split_phrases("""
Maple Avenue|Oak Street|Elm Street|Cedar Lane|Washington Avenue|Lincoln Road|2nd Street|5th Avenue|14th Street|
Park Place|Sunset Boulevard|Lake Shore Drive|Mill Road|Main Street|Highland Drive|Prospect Street|Walnut Street|
River Road|Ridge Avenue|Franklin Street|Jefferson Way|Spring Street|Willow Court|Chestnut Drive|Railroad Avenue|
Meadow Lane|Canyon Road|Harbor Boulevard|Church Street|Union Square
"""),
    "en-GB": split_phrases("""
High Street|Station Road|Church Lane|Victoria Road|Queen’s Crescent|King’s Road|Mill Lane|The Green|Albert Terrace|
Bridge Street|Market Place|Castle Hill|Abbey Close|Windsor Gardens|Chapel Row|Priory Court|Orchard Way|Park Avenue|
Manor Drive|North Parade|Dock Street|Union Street|Warwick Square|Grange Road|Springfield Road|Lower Wharf|
Gloucester Place|Cathedral Close|St. John’s Road|Tanner’s Yard
"""),
    "de": split_phrases("""
Hauptstraße|Bahnhofstraße|Gartenweg|Lindenallee|Schillerstraße|Goethestraße|Marktplatz|Kirchgasse|Am Mühlbach|
Ringstraße|Schloßstraße|Bergstraße|Waldweg|Blumenstraße|Rosenweg|Königsallee|Brückenstraße|Hafenstraße|Industriestraße|
Friedrichstraße|Beethovenplatz|Mozartstraße|Wiesengrund|Südring|Am Stadtpark|Poststraße|Mühlenweg|Ulmenweg|
Münsterplatz|Schäfergasse
"""),
    "fr": split_phrases("""
rue de la Gare|rue du Marché|avenue de la République|rue des Lilas|boulevard Voltaire|rue Victor Hugo|place de la
Mairie|rue du Château|quai des Orfèvres|rue de l’Église|avenue Foch|rue du Moulin|chemin des Vignes|rue Pasteur|
impasse du Puits|rue de la Fontaine|cours Gambetta|rue Molière|allée des Érables|rue Saint-Honoré|rue du Théâtre|
avenue Jean Jaurès|rue des Tanneurs|rue Émile Zola|place du Marché|rue des Écoles|route de Genève|rue Diderot|
rue de Sèvres|rue Neuve
"""),
}

COMPANY_NAMES = split_words("""
Aldermoor Alpina Ambrose Anchor Apex Arden Argent Ashbourne Aurora Avalon Bayside Beacon Birchwood Blackwell
Bluebird Bramble Brightwater Calder Cascade Castleton Cobalt Concordia Copperfield Corvus Crestline Dalton Delphi
Drummond Eastgate Edelweiss Elmhurst Ember Everly Fairmont Falconer Fenwick Fjord Forge Foxglove Galena Gloria
Granite Greenfield Hadley Halcyon Harrow Hawthorn Hexagon Highcliff Horizon Ironbridge Juniper Kestrel Kingsley
Kronos Larkspur Lavender Lighthouse Linden Lombard Luminar Lynx Magnolia Marlow Meridian Merlin Millstone Monarch
Montrose Nimbus Northwind Oakley Octavia Olympia Orion Osprey Otter Pallas Paragon Pemberton Pinnacle Polaris
Primrose Quarry Quartz Quill Radley Ravenna Redwood Regent Ridgeway Rosewood Rowan Sable Saffron Sandford Sequoia
Sierra Silverline Solstice Sparrow Sterling Stonehouse Summit Swift Tamarind Thistle Tiber Topaz Trident Tulip
Umbra Unity Vallis Vega Verdant Vesta Vista Wayland Westbrook Whitby Willow Windmill Wolfram Yarrow Zenith Zephyr
""")

COMPANY_TRADES = split_phrases("""
Bakery|Books|Brewery|Catering|Ceramics|Chemicals|Cleaning|Coffee|Construction|Consulting|Cycles|Dairy|Dental Care|
Design|Electrics|Electronics|Energy|Engineering|Farms|Fashion|Finance|Flooring|Flowers|Foods|Freight|Furniture|
Glass|Hardware|Heating|Hotels|Instruments|Insurance|Interiors|Laboratories|Landscapes|Lighting|Logistics|Marine|
Media|Metals|Motors|Optics|Office Supplies|Organics|Packaging|Paper|Pharmacy|Plumbing|Press|Printing|Property|
Pumps|Records|Research|Roofing|Security|Shipping|Software|Solar|Sports|Stationery|Steel|Systems|Tea|Textiles|
Timber|Tools|Toys|Trading|Translations|Travel|Water|Wines
""")

COMPANY_FORMS = {
    "en-US": split_phrases("Inc.|LLC|Corp.|& Co.|& Sons|Group"),
    "en-GB": split_phrases("Ltd|Ltd.|plc|& Sons|LLP|Partners|Group"),
    "de": split_phrases("GmbH|AG|KG|OHG|e.K.|GmbH & Co. KG"),
    "fr": split_phrases("SA|SARL|SAS|& Cie|et Fils|EURL"),
}

PRODUCTS = split_phrases("""
A4 paper, 500 sheets|Adapter USB-C|Adjustable wrench|Ballpoint pens|Bar stool|Battery charger|Bench vice|Bicycle
pump|Bolt M8 × 40|Bookshelf|Brass hinge|Bread knife|Broom|Bucket 10 l|Cable ties|Canvas bag|Carbon filter|Ceiling
lamp|Chain lock|Chisel set|Circuit breaker|Clamp 150 mm|Coat hooks|Coffee beans 1 kg|Copper pipe 15 mm|Cork board|
Cotton gloves|Desk fan|Desk lamp|Digital scale|Dish rack|Door handle|Door mat|Drill bit 6 mm|Dust mask|Ear plugs|
Electric kettle|Envelopes C5|Espresso cups|Extension cord|External drive 2 TB|Fire blanket|First aid kit|Flip
chart|Floor cleaner|Folding chair|Folding table|Frame 30 × 40|Garden hose|Gasket set|Glass jar|Glue stick|Hammer|
Hand soap|Head torch|HDMI cable 2 m|Hex key set|Highlighter|Hole punch|Ink cartridge|Ironing board|Keyboard|Label
printer|Laser pointer|LED strip 5 m|Letter tray|Linen cloth|Lubricant spray|Magnet set|Measuring tape|Microfibre
cloth|Mixing bowl|Mop head|Mouse pad|Nails 50 mm|Name badges|Network cable|Notebook A5|Office chair|Oil filter|
Orange juice|Packing tape|Padlock|Paint roller|Paper clips|Pencil sharpener|Picture hooks|Pillow case|Plant pot|
Pliers|Power bank|Printer drum|Projector|Putty knife|Radiator valve|Rain coat|Refrigerator|Ring binder|Rubber
boots|Rubber stamp|Ruler 30 cm|Safety goggles|Sandpaper P120|Saw blade|Scissors|Screwdriver|Screws 4 × 30|Shelf
bracket|Shower head|Silicone, white|Sketch pad|Smoke detector|Socket 16 A|Soldering iron|Spark plug|Spirit level|
Sponge|Stapler|Step ladder|Sticky notes|Storage box|Sun screen|Table cloth|Tea towel|Thermometer|Thermos flask|
Tile grout|Toner, black|Tool box|Tool belt|Tooth brush|Torch|Towel rail|Trolley|Umbrella|USB stick 64 GB|Vacuum
bags|Varnish, clear|Wall clock|Wall plugs|Washer M6|Waste bin|Water bottle|Webcam|Whiteboard|Window cleaner|
Wood glue|Wool blanket|Work gloves|Zip bags
""")

GROCERIES = split_phrases("""
Almonds|Apple juice|Apples|Apricot jam|Bagels|Baguette|Bananas|Basil|Beef mince|Black tea|Blueberries|Brown bread|
Butter|Café crème|Cappuccino|Carrots|Cereal|Cheddar|Cherries|Chicken|Chocolate|Cider|Cocoa|Cod fillet|Cookies|
Cottage cheese|Couscous|Crackers|Cream|Crème brûlée|Croissant|Cucumber|Dark chocolate|Dates|Eggs, 10|Espresso|Feta|
Figs|Flour|Garlic|Ginger|Gouda|Grapes|Green tea|Ham|Hazelnuts|Honey|Hummus|Ice cream|Jalapeños|Kiwi|Lamb|Lasagne|
Leeks|Lemonade|Lemons|Lentils|Lettuce|Limes|Mango|Maple syrup|Margarine|Milk 1 l|Mineral water|Mints|Muesli|Muffin|
Mushrooms|Mustard|Noodles|Oat milk|Oats|Olive oil|Olives|Onions|Oranges|Orange juice|Parsley|Pasta|Pâté|Peaches|
Peanut butter|Pears|Peas|Pepper|Pickles|Pineapple|Pizza|Plums|Popcorn|Potatoes|Purée|Quark|Quiche|Radishes|Raisins|
Raspberries|Red wine|Rice|Rolls|Salami|Salmon|Salt|Sausages|Soup|Sourdough|Spinach|Strawberries|Sugar|Tofu|
Tomatoes|Tuna|Turkey|Vanilla|Vinegar|Waffles|Walnuts|White wine|Yoghurt|Zucchini
""")

MONTHS = split_words("January February March April May June July August September October November December")
WEEKDAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
JOB_TITLES = split_phrases("""
Account Manager|Administrator|Area Manager|Assistant|Building Manager|Chief Accountant|Clerk|Curator|Customer
Service|Deputy Director|Director|Editor|Engineer|Executive Secretary|Export Manager|Facility Manager|Finance
Officer|Head of Purchasing|Head of Research|Head of Sales|Head Teacher|Human Resources|Laboratory Manager|
Librarian|Managing Director|Office Manager|Partner|Planning Officer|Production Manager|Project Lead|Quality
Officer|Registrar|Sales Executive|Secretary|Senior Consultant|Treasurer|Works Manager
""")
